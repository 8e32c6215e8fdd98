"""The FlashCopy bitmap as a map: which tracks were overwritten since the cut.

Pure. One bit a track is the change record *and* the copy-on-write map:

    bit  claimed   state
     0     -       clear: the device still holds the track as at the cut
     1    yes      preserving: its old content is on the way to the target
     1     no      preserved: its old content is in the target

Only the host path moves a track forward; nothing moves it back but a new
relation with a fresh bitmap. With no relation standing (before the first cut,
withdrawn or invalid) bits are still marked, and nothing is preserved.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from common.storage.bitmap import Bitmap

Runs = list[tuple[int, int]]


class Relation:
    """One FlashCopy, source to target, standing since the cut of `cycle_number`.

    `valid` is set to False once and for ever by whoever fails to preserve a
    track, *before* the source is overwritten: so no reader of the target that
    looks again after its read can take a torn image for the cut. It is a plain
    attribute because the thread that fails is the one that sets it.
    """

    __slots__ = (
        "_on_quiet",
        "cycle_number",
        "readers",
        "valid",
        "why_invalid",
        "withdrawn",
    )

    def __init__(self, cycle_number: int) -> None:
        self.cycle_number = cycle_number
        self.valid = True
        self.withdrawn = False
        self.why_invalid = ""
        self.readers = 0
        """Threads that read the target now; it is reused only at 0."""
        self._on_quiet: list[Callable[[], None]] = []

    @property
    def readable(self) -> bool:
        return self.valid and not self.withdrawn

    def enter_reader(self) -> None:
        self.readers += 1

    def leave_reader(self) -> None:
        """The reader's thread has returned, whatever became of who asked."""
        self.readers -= 1
        assert self.readers >= 0
        if self.readers == 0:
            waiting, self._on_quiet = self._on_quiet, []
            for tell in waiting:
                tell()

    def when_quiet(self, tell: Callable[[], None]) -> None:
        """Call `tell` once no thread reads the target (maybe now)."""
        if self.readers == 0:
            tell()
        else:
            self._on_quiet.append(tell)

    def invalidate(self, why: str) -> None:
        self.why_invalid = self.why_invalid or why
        self.valid = False


class FlashCopyMap:
    """The map of one volume, owned by the event loop."""

    __slots__ = ("_claims", "_waiting", "bitmap", "relation")

    def __init__(self, track_count: int) -> None:
        self.bitmap = Bitmap(track_count)
        self.relation: Relation | None = None
        self._claims: dict[int, object] = {}
        self._waiting: list[Callable[[], None]] = []

    def establish(self, relation: Relation | None, fresh: Bitmap) -> Bitmap:
        """Start a new relation with a clear bitmap; return the old bitmap.

        Within the hold, with no write in flight: nothing is being preserved.
        """
        assert not self._claims, "a cut while a track is preserving"
        if self.relation is not None:
            self.relation.withdrawn = True
        old, self.relation = self.replace(fresh), relation
        return old

    def replace(self, fresh: Bitmap) -> Bitmap:
        """Go on marking in a clear bitmap, which may be larger; return the old one.

        Also with writes in flight: they have marked their tracks in the old one.
        """
        assert fresh.count == 0
        old, self.bitmap = self.bitmap, fresh
        return old

    def withdraw(self) -> None:
        """End the relation; marking goes on, preserving stops."""
        if self.relation is not None:
            self.relation.withdrawn = True
            self.relation = None

    def claim(self, first: int, count: int, owner: object) -> Runs:
        """Mark tracks for a write by `owner`; return the runs it must preserve.

        No track of the range is *preserving* for another owner (see
        `is_preserving`; its old content would not be safe yet). The caller
        preserves all runs returned to one owner before it writes, and settles
        them afterwards.
        """
        claims = self._claims
        if not self.stands:
            self.bitmap.set_range(first, count)
            return []
        if count == 1:
            if self.bitmap.test(first):
                return []
            self.bitmap.set(first)
            claims[first] = owner
            return [(first, 1)]
        runs = self.clear_runs(first, count)
        self.bitmap.set_range(first, count)
        for start, size in runs:
            for track in range(start, start + size):
                claims[track] = owner
        return runs

    @property
    def stands(self) -> bool:
        """Tell whether tracks are preserved: else they are marked and no more."""
        return self.relation is not None and self.relation.valid

    def is_marked(self, first: int, count: int) -> bool:
        """Tell whether all tracks of the range are marked: none needs preserving."""
        if count == 1:
            return self.bitmap.test(first)
        return self.bitmap.next_clear(first, first + count) == first + count

    def clear_runs(self, first: int, count: int) -> Runs:
        """Return the runs of the range that are not marked yet."""
        runs: Runs = []
        end = first + count
        while (first := self.bitmap.next_clear(first, end)) < end:
            stop = self.bitmap.next_set(first, end)
            runs.append((first, stop - first))
            first = stop
        return runs

    def settle(self, runs: Runs) -> None:
        """The thread has returned: preserved, or the relation is invalid."""
        for first, count in runs:
            for track in range(first, first + count):
                del self._claims[track]
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for tell in waiting:
                tell()

    def when_settled(self, tell: Callable[[], None]) -> None:
        """Call `tell` at the next `settle`; look again then."""
        self._waiting.append(tell)

    @property
    def busy(self) -> bool:
        """Tell whether any track at all is preserving."""
        return bool(self._claims)

    def preserving(self, first: int, count: int) -> list[int]:
        """Return the tracks of the range that are on their way to the target now."""
        return [track for track in self._claims if first <= track < first + count]

    def is_preserving_any(self, runs: Runs) -> bool:
        """Tell it of many ascending runs: claims are few, so they are looked up."""
        if not self._claims:
            return False
        starts = [first for first, _ in runs]
        for track in self._claims:
            index = bisect_right(starts, track) - 1
            if index >= 0 and track < sum(runs[index]):
                return True
        return False

    def is_preserving(self, first: int, count: int) -> bool:
        """Tell whether any track of the range is on its way to the target now."""
        claims = self._claims
        if not claims:
            return False
        if len(claims) < count:
            return any(first <= track < first + count for track in claims)
        return any(track in claims for track in range(first, first + count))
