"""Region heat: a write into a cold region waits until the region log says hot.

A region is cold, heating, hot or cooling. Heating is one group-committed
fdatasync of the region log. A region cools only after, in this order: no write
in flight in it; an fdatasync of the device begun after its last write; an
fdatasync of the durable copies of all bitmaps that hold its tracks; no mark since.
So after any crash: changed ⊆ durable bitmaps ∪ tracks of hot regions (I4).
"""

from __future__ import annotations

import asyncio
import enum
import errno
from collections.abc import Callable

from common.errors import StorageError
from common.ports import Threads
from common.storage.geometry import Geometry
from primary_site.background import to_its_end
from primary_site.changes import VolumeChanges, pages_of_tracks
from primary_site.durable_bitmaps import DurableBitmaps
from primary_site.shared_flush import SharedFlush

PAGES_PER_SAVE = 64
"""Pages copied from memory in one turn of the loop: about half a millisecond."""


class Heat(enum.Enum):
    HEATING = 1
    HOT = 2
    COOLING = 3


class Region:
    """One region that is not cold. `pins` counts its writes in flight."""

    __slots__ = ("heat", "marked_at", "pins", "waiting")

    def __init__(self) -> None:
        self.heat = Heat.HEATING
        self.pins = 0
        self.marked_at = 0
        self.waiting: list[Callable[[], None]] = []


class RegionHeat:
    """The regions of one volume, owned by the event loop."""

    def __init__(
        self,
        geometry: Geometry,
        changes: VolumeChanges,
        durable: DurableBitmaps,
        flush: SharedFlush,
        threads: Threads,
        hot_regions_max: int,
        fail: Callable[[StorageError], None],
    ) -> None:
        self._geometry = geometry
        self._changes = changes
        self.durable = durable
        self._flush = flush
        self._threads = threads
        self._hot_regions_max = hot_regions_max
        self._fail = fail
        self.table: dict[int, Region] = {}
        self._marks = 0
        """Counts writes, so that `marked_at` tells the region used longest ago."""
        self._marks_at_last_call = 0
        self.acked_tag = bytes(16)
        self.progress_count = durable.acked.stamp
        """Of the remote's relation: what the acked bits here rely on."""
        self.dirty_acked_pages: set[int] = set()
        self._lazily_cooled: set[int] = set()
        self._left_hot = set(durable.log.hot)
        """What the last run left hot: carried now, and cold once that is durable."""
        for number in self._left_hot:
            first, count = geometry.region_tracks(number)
            changes.stale_pages.update(pages_of_tracks(first, count))
        self._wanted = asyncio.Event()
        self._unpinned = asyncio.Event()
        self._failed: StorageError | None = None
        self._task = asyncio.create_task(self._keep_hot(), name="region-heat")
        self._saving = asyncio.Lock()

    # -- host path -----------------------------------------------------------------

    def pin(self, number: int) -> Region | None:
        """Count a write into a hot region in; None if it must `wait` first."""
        region = self.table.get(number)
        if region is None or region.heat is not Heat.HOT:
            return None
        region.pins += 1
        self._marks += 1
        region.marked_at = self._marks
        return region

    def mark_hot(self, number: int) -> bool:
        """Count a write that begins and ends now; False if the region is not hot."""
        region = self.table.get(number)
        if region is None or region.heat is not Heat.HOT:
            return False
        self._marks += 1
        region.marked_at = self._marks
        return True

    def written_since(self, mark: int) -> tuple[int, list[int]]:
        """Return a mark of now, and the regions not cold that were written since one.

        0 is the daemon's start.
        """
        return self._marks, [n for n, r in self.table.items() if r.marked_at > mark]

    def unpin(self, region: Region) -> None:
        region.pins -= 1
        assert region.pins >= 0
        if region.pins == 0:
            self._unpinned.set()

    def wait(self, number: int, resume: Callable[[], None]) -> None:
        """Call `resume` when the region has become hot (it must `pin` again).

        After a failure of the log it is called too: the volume has failed then.
        """
        region = self.table.get(number)
        if region is None:
            region = self.table[number] = Region()
        region.waiting.append(resume)
        self._wanted.set()
        if self._failed is not None:
            self._resume(region)

    def fail(self, error: StorageError) -> None:
        """The volume has failed: nothing heats or cools before a restart (I9).

        After a failed fdatasync the next one says success for pages that are lost:
        a region that cooled by it would trust an acked bit whose track is not there.
        """
        if self._failed is None:
            self._failed = error
            for region in list(self.table.values()):
                self._resume(region)

    # -- heating --------------------------------------------------------------------

    async def _keep_hot(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while heating := self._heating():
                    await self._heat(heating)
        except StorageError as error:
            self._fail(error)
        except Exception as error:
            # A bug here would leave hosts waiting for a region for ever.
            text = f"region heat: {error!r}"
            self._fail(StorageError(text, errno=errno.EIO, file="region log"))
            raise

    def _heating(self) -> list[int]:
        return [n for n, r in self.table.items() if r.heat is Heat.HEATING]

    async def _heat(self, heating: list[int]) -> None:
        if self._failed is not None:
            raise self._failed
        if self._room() < len(heating):
            await self._cool_coldest(len(heating) - self._room())
            heating = self._heating()[: max(self._room(), 0)]
        if not heating:
            return
        cooled = self._lazily_cooled - self._hot() - set(heating)
        self._lazily_cooled -= cooled
        await self._threads.run(self.durable.log.write, heating, cooled)
        for number in heating:
            region = self.table[number]
            region.heat = Heat.HOT
            self._marks += 1
            region.marked_at = self._marks
            self._resume(region)

    def _room(self) -> int:
        """Return how many regions may be heated: what is hot on disk counts."""
        return self._hot_regions_max - len(self._hot() | self._left_hot)

    def _hot(self) -> set[int]:
        return {n for n, r in self.table.items() if r.heat is not Heat.HEATING}

    def _resume(self, region: Region) -> None:
        waiting, region.waiting = region.waiting, []
        for resume in waiting:
            resume()

    # -- cooling --------------------------------------------------------------------

    async def _cool_coldest(self, wanted: int) -> None:
        """Make room: the regions marked longest ago cool, and their writers wait."""
        if self._left_hot:  # of the last run: those go first
            await self._make_cool([])
            if self._room() >= wanted:
                return
        count = max(wanted, self._hot_regions_max // 8)
        while not (victims := self._coldest(count)):
            if self._room() > 0:
                return  # none is hot and idle: some of those that wait fit all the same
            self._unpinned.clear()
            await self._unpinned.wait()
        for number in victims:
            self.table[number].heat = Heat.COOLING
        await self._make_cool(victims)
        for number in victims:
            region = self.table.pop(number)
            assert region.pins == 0
            self._lazily_cooled.add(number)
            if region.waiting:
                again = self.table[number] = Region()
                again.waiting = region.waiting

    def _coldest(self, count: int) -> list[int]:
        idle = [
            (r.marked_at, n)
            for n, r in self.table.items()
            if r.heat is Heat.HOT and r.pins == 0
        ]
        return [number for _, number in sorted(idle)[:count]]

    async def cool_idle(self, *, all_regions: bool = False) -> None:
        """Cool what was not marked since the last call; save stale pages.

        Nobody waits for it: a region that is written meanwhile just stays hot.
        `all_regions` at a clean stop, when no host is connected any more.
        """
        horizon = self._marks if all_regions else self._marks_at_last_call
        self._marks_at_last_call = self._marks
        before = {
            n: r.marked_at
            for n, r in self.table.items()
            if r.heat is Heat.HOT and r.pins == 0 and r.marked_at <= horizon
        }
        await self._make_cool(list(before))
        for number, marked_at in before.items():
            region = self.table.get(number)
            if region is None or region.heat is not Heat.HOT:
                continue
            if region.pins == 0 and region.marked_at == marked_at:
                del self.table[number]
                self._lazily_cooled.add(number)
        if all_regions:
            cooled = self._lazily_cooled - self.table.keys()
            await self._threads.run(self.durable.log.write, [], cooled)

    async def save_acked(self) -> None:
        """Make durable what is acked so far, and all stale pages with it."""
        await self._make_cool([])

    async def _make_cool(self, regions: list[int]) -> None:
        """Make all that cooling regions rely on durable; returns only then.

        Order: fdatasync of the device; the pages, copied from memory after the
        last write of every region that cools; fdatasync of both bitmap files.
        Only the caller may then forget the regions, those not marked since. The
        crash it defends against: a region named by no log whose change no durable
        bitmap holds, or whose durable acked bit outlived a later host write.
        """
        pages: set[int] = set()
        for number in regions:
            pages.update(pages_of_tracks(*self._geometry.region_tracks(number)))
        left_hot = set(self._left_hot)  # their pages are stale since the start
        await self.save(pages, sync_device=bool(regions or left_hot))
        self._left_hot -= left_hot
        self._lazily_cooled |= left_hot

    async def save(self, pages: set[int], *, sync_device: bool) -> None:
        """Save these pages and all stale ones; see `_make_cool` for the order.

        Once begun it goes on to its end: pages half saved by a thread that nobody
        waits for would meet those of the next save.
        """
        await to_its_end(self._save(pages, sync_device=sync_device))

    async def _save(self, pages: set[int], *, sync_device: bool) -> None:
        async with self._saving:
            if self._failed is not None:
                raise self._failed
            pages = pages | self._changes.stale_pages | self.dirty_acked_pages
            self._changes.stale_pages = set()
            self.dirty_acked_pages = set()
            if sync_device:
                await self._flush.done()
            todo = sorted(pages)
            for start in range(0, len(todo), PAGES_PER_SAVE):
                part = todo[start : start + PAGES_PER_SAVE]
                changed = {p: self._changes.changed_page(p) for p in part}
                acked = {p: self._changes.acked_page(p) for p in part}
                await self._threads.run(
                    self.durable.save_pages,
                    changed,
                    acked,
                    self.acked_tag,
                    self.progress_count,
                )
            if self._failed is not None:
                raise self._failed

    # -- growing -----------------------------------------------------------------------

    async def extend_durable(self, geometry: Geometry) -> None:
        """Make room on disk for the pages of a larger volume; `take_size` uses it.

        Raises `StorageError`; where there was no room the smaller volume works on. Any
        other error may be of a flush, and fails it (I9).
        """
        async with self._saving:
            extending = self._threads.run(self.durable.extend, geometry.track_count)
            try:
                await to_its_end(extending)
            except StorageError as error:
                if not error.is_out_of_space:
                    self._fail(error)
                raise

    def take_size(self, geometry: Geometry) -> None:
        """Regions and pages of the new size count from now on."""
        self._geometry = geometry

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
