"""The base of a cycle: what the remote holds of tracks that have changed since.

At a cut the target of the cut before holds, of each track overwritten between the
two, the content as at the cut before. If the cycle of that cut was committed, this
is what the secondary volume holds now, and so a track's difference can be computed
here, without asking. The target is not reused before the cycle has ended.

A base is trusted with bytes only: the remote compares its hash before it changes
anything, and asks for whole tracks where it holds something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from common.errors import StorageError
from common.ports import Threads
from common.replication.delta import Stretch, differences
from common.replication.tracks import DeltaRun, RunData
from common.storage.bitmap import Bitmap
from common.storage.flashcopy import Runs
from common.storage.geometry import Geometry
from primary_site.standing import Standing

T = TypeVar("T")

TRIED_TRACKS = 16
TRIED_FROM_TRACKS = 64
"""Of so many tracks at least, about 16 tell whether it is worth looking at all."""

FEW_SHARE = 0.5
"""Of a frame's tracks: up to here it is packed both ways."""

WINDOW_TRACKS = 1 << 18
"""Searched for runs by one call."""


class CycleBase:
    """The tracks of one volume that were preserved in the target of the cut before.

    `stands` goes to False once and for ever: dropped by the loop, or by the thread
    that could not read it. It is looked at after each read.
    """

    def __init__(
        self, standing: Standing, preserved: Bitmap, geometry: Geometry
    ) -> None:
        """`preserved` is the FlashCopy bitmap that the cut took: it never changes."""
        self.stands = True
        self.standing = standing
        self._preserved = preserved
        self._geometry = geometry

    async def run(self, threads: Threads, job: Callable[[], T]) -> T:
        """Run a job that reads the base; the target is not reused meanwhile."""
        return await self.standing.run(threads, job)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield the runs of tracks that it has. For a thread."""
        first = self._preserved.next_set(0)
        while first < self._preserved.bit_count:
            stop = min(first + WINDOW_TRACKS, self._preserved.bit_count)
            yield from self._preserved.runs_now(first, stop)
            first = self._preserved.next_set(stop)

    def has(self, track: int) -> bool:
        """Tell whether the track was overwritten since the cut before."""
        return self._preserved.test(track)

    def parts(self, places: Sequence[tuple[int, int]]) -> list[bytes] | None:
        """Read (offset, length) of tracks that it has; None if it stands no more.

        In a thread, by `run`.
        """
        found = []
        for place in places:
            held = self._read_bytes(*place)
            if held is None:
                return None
            found.append(held)
        return found

    def against(self, runs: Sequence[RunData]) -> list[RunData | DeltaRun]:
        """Return records of the same runs, smaller where the base helps.

        In a thread, by `run`. Zeroes travel as they are: nothing is smaller. Of many
        tracks some are tried first: where none of them has anything in common with
        its base, none is looked for in the others. That costs a few bytes where one
        was missed, and saves hosts the processor where they write noise.
        """
        if not self._is_promising(runs):
            return list(runs)
        found: list[RunData | DeltaRun] = []
        waiting: list[Stretch] = []
        for run in runs:
            if run.data is None:
                found += differences(waiting, self._geometry.track_bytes)
                waiting = []
                found.append(run)
                continue
            for part, is_preserved in self._parts(run):
                base = self._read(part) if is_preserved else None
                if base is not None and part.data is not None:
                    waiting.append(Stretch(part.first, part.count, part.data, base))
                    continue
                found += differences(waiting, self._geometry.track_bytes)
                waiting = []
                found.append(part)
        found += differences(waiting, self._geometry.track_bytes)
        return found

    def _is_promising(self, runs: Sequence[RunData]) -> bool:
        """Tell whether to look at every track, by a few that lie evenly among them."""
        total = sum(run.count for run in runs if run.data is not None)
        if total < TRIED_FROM_TRACKS:
            return True
        tried: list[Stretch] = []
        passed, wanted = 0, 0
        for run in runs:
            if run.data is None:
                continue
            while wanted < passed + run.count:  # ends: it grows each time
                track = self._part(run, run.first + wanted - passed, 1)
                wanted += total // TRIED_TRACKS
                base = None
                if self._preserved.test(track.first):
                    base = self._read(track)
                if base is not None and track.data is not None:
                    tried.append(Stretch(track.first, 1, track.data, base))
            passed += run.count
        found = differences(tried, self._geometry.track_bytes)
        return any(isinstance(each, DeltaRun) for each in found)

    def _parts(self, run: RunData) -> list[tuple[RunData, bool]]:
        """Split a run where what is preserved begins and ends."""
        first, end = run.first, run.first + run.count
        if run.count == 1:
            return [(run, self._preserved.test(first))]
        parts = []
        for start, count in self._preserved.runs_now(first, end):
            if start > first:
                parts.append((self._part(run, first, start - first), False))
            parts.append((self._part(run, start, count), True))
            first = start + count
        if first < end:
            parts.append((self._part(run, first, end - first), False))
        return parts

    def _part(self, run: RunData, first: int, count: int) -> RunData:
        assert run.data is not None
        if (first, count) == (run.first, run.count):
            return run
        start = (first - run.first) * self._geometry.track_bytes
        end = start + self._geometry.byte_range(first, count)[1]
        return RunData(first, count, memoryview(run.data)[start:end])

    def _read(self, run: RunData) -> bytes | None:
        """Read what the remote holds; None if it can't be told any more."""
        return self._read_bytes(*self._geometry.byte_range(run.first, run.count))

    def _read_bytes(self, offset: int, length: int) -> bytes | None:
        if not self.stands:
            return None
        try:
            held = self.standing.target.read(offset, length)
        except StorageError:
            self.stands = False  # the tracks go as they are: a host loses nothing
            return None
        return held if self.stands and self.standing.relation.valid else None


def runs_of(records: Sequence[RunData | DeltaRun]) -> Runs:
    """Return the runs that need their base, in the records' order."""
    return [(r.first, r.count) for r in records if isinstance(r, DeltaRun)]


def has_few_differences(records: Sequence[RunData | DeltaRun]) -> bool:
    """Tell whether so few tracks go as differences that they may do so in vain.

    Each brings two hashes with it; among many tracks like itself it may shrink to less
    as it is.
    """
    differenced = sum(each.count for each in records if isinstance(each, DeltaRun))
    whole = sum(
        each.count
        for each in records
        if isinstance(each, RunData) and each.data is not None
    )
    return 0 < differenced <= FEW_SHARE * (differenced + whole)
