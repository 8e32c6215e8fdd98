"""What a drain's frames hold: tracks as at the cut, whole, as differences or as hashes.

Owned by the event loop of the group; reading, comparing and compressing is done in the
volume's threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from common.replication.tracks import DeltaRun, RunData, track_hash
from common.storage.geometry import Geometry
from primary_site.base import CycleBase, has_few_differences, runs_of
from primary_site.compression import Compression, Packed
from primary_site.cut_reader import CutReader
from primary_site.drain_plan import Unit
from primary_site.drain_waits import DrainWaits, Stage
from primary_site.likeness import Habit, Likeness, unlike
from primary_site.standing import Standing

Records = list[RunData | DeltaRun]

T = TypeVar("T")


class FrameMaker:
    """Of one cycle over one session; `readers` are those of its volumes, in order."""

    def __init__(
        self,
        readers: Sequence[CutReader],
        compression: Compression,
        waits: DrainWaits,
        *,
        delta: bool,
        habit: Habit | None,
    ) -> None:
        """`delta`, `habit`: as `CycleDrain` has them. Waiting is added to `waits`."""
        self.tracks_differenced = 0
        self._readers = readers
        self._compression = compression
        self._monotonic = compression.monotonic
        self._waits = waits
        self._delta = delta
        self._habit = habit if delta and habit is not None and habit.begin() else None
        self._likenesses: dict[int, Likeness] = {}

    def refuse_references(self, volume: int) -> None:
        """The remote's newest point is not what references of this volume say."""
        self._likenesses[volume].stop()

    async def packed(self, unit: Unit) -> Packed:
        """Return a unit's payload, of differences where there is a base.

        Raises as `CutReader.read` does.
        """
        volume = self._readers[unit.volume].volume
        if unit.zero:
            return self._whole([RunData(*run, None) for run in unit.runs])
        base = volume.preserver.base() if self._delta and not unit.whole else None
        if base is None:
            return await self._made(unit, self._whole)
        records, packed = await self._made(
            unit, partial(self._against, base), (base.standing,)
        )
        unit.based = runs_of(records)
        self.tracks_differenced += sum(count for _, count in unit.based)
        with self._waits.during(Stage.ENCODE, self._monotonic):
            referred = await self._referred(unit, base, records, packed)
        if referred is None:
            return packed
        unit.based, unit.referred = unit.runs, True
        return referred

    async def hashes(self, unit: Unit) -> bytes:
        """Return the hashes of a unit's tracks. Raises as `CutReader.read` does."""
        volume = self._readers[unit.volume].volume
        return await self._made(unit, partial(_hash_tracks, volume.geometry))

    async def _made(
        self,
        unit: Unit,
        make: Callable[[list[RunData]], T],
        beside: Sequence[Standing] = (),
    ) -> T:
        """Read a unit's tracks and make something of them; see `CutReader.made`.

        What the thread's answer waits for the loop is neither reading nor making.
        """
        began = read_at = made_at = self._monotonic()

        def timed(runs: list[RunData]) -> T:
            nonlocal read_at, made_at
            read_at = self._monotonic()
            made = make(runs)
            made_at = self._monotonic()
            return made

        made = await self._readers[unit.volume].made(unit.runs, timed, beside)
        self._waits.add(Stage.READ, read_at - began)
        self._waits.add(Stage.ENCODE, made_at - read_at)
        return made

    def _whole(self, runs: Sequence[RunData]) -> Packed:
        return self._compression.pack(runs, gathered=self._delta)

    def _against(
        self, base: CycleBase, runs: Sequence[RunData]
    ) -> tuple[Records, Packed]:
        records = base.against(runs)
        packed = self._compression.pack(records, gathered=True)
        if self._compression.has_time and has_few_differences(records):
            whole = self._compression.pack(runs, gathered=True)
            if len(whole.payload) < len(packed.payload):
                return list(runs), whole
        return records, packed

    async def _referred(
        self, unit: Unit, base: CycleBase, records: Records, plain: Packed
    ) -> Packed | None:
        """Return a payload that a reference makes smaller, None if none does."""
        if self._habit is None or not self._compression.has_time:
            return None
        reader = self._readers[unit.volume]
        likeness = self._likenesses.get(unit.volume)
        if likeness is None:
            likeness = Likeness(reader, base, self._habit)
            self._likenesses[unit.volume] = likeness
        alone = unlike(records)
        if not likeness.is_worth(plain, alone):
            return None
        reference = await likeness.reference(alone)
        if reference is None:
            return None
        return await reader.volume.threads.run(
            self._compression.pack_against, records, reference, plain
        )


def _hash_tracks(geometry: Geometry, runs: Sequence[RunData]) -> bytes:
    step = geometry.track_bytes
    hashes: list[bytes] = []
    for run in runs:
        _, total = geometry.byte_range(run.first, run.count)
        data = memoryview(bytes(total) if run.data is None else run.data)
        hashes += [track_hash(data[at : at + step]) for at in range(0, total, step)]
    return b"".join(hashes)
