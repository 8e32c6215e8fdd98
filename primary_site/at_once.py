"""Host writes that memory takes at once, on the loop of their group.

A hop to a thread costs twenty times what copying 4 KiB into the page cache does.
The loop of a group serves no other group, no control socket and no watchdog, so it
may do what its own devices have proved to do promptly. What would surely wait
(a cold region, old content that is not in memory, half a page that is not, a gate
that is held, a device that was slow) goes to a thread as ever.
"""

from __future__ import annotations

import mmap

from common.errors import StorageError
from common.ports import Clock, File, HostRequest
from common.storage.flashcopy import Runs
from common.storage.geometry import Geometry
from common.storage.zeroes import is_zero
from primary_site.changes import VolumeChanges
from primary_site.preserving import Preserver
from primary_site.promptness import PROMPT_SECONDS, Promptness
from primary_site.regions import RegionHeat
from primary_site.write_order import Span, overlaps, span

PRESERVE_BYTES_MAX = 256 << 10
"""Old content copied on the loop for one write: some 50 microseconds."""

_PAGE_MASK = mmap.PAGESIZE - 1


class WritesAtOnce:
    """The writes of one volume that need no thread; owned by its group's loop."""

    def __init__(
        self,
        geometry: Geometry,
        device: File,
        changes: VolumeChanges,
        preserver: Preserver,
        heat: RegionHeat,
        promptness: Promptness,
        clock: Clock,
    ) -> None:
        self._geometry = geometry
        self._device = device
        self._changes = changes
        self._preserver = preserver
        self._heat = heat
        self._promptness = promptness
        self._monotonic = clock.monotonic
        self._region_shift = geometry.region_bytes.bit_length() - 1
        self._track_shift = geometry.track_bytes.bit_length() - 1

    def take_size(self, geometry: Geometry) -> None:
        self._geometry = geometry

    def take(
        self, writes: list[HostRequest], written: list[HostRequest]
    ) -> list[HostRequest]:
        """Write what can be, append it to `written`, return the rest.

        What overlaps something that came before and is of the rest is so too.

        Within one turn of the loop, with the gate open: no cut can fall between
        mark, preserve and write, and nobody sees a track that is *preserving*.
        """
        began = self._monotonic()
        if not self._promptness.is_prompt(began):
            return writes
        rest = []
        before: list[Span] = []
        write, monotonic, ends_at = self._write, self._monotonic, began + PROMPT_SECONDS
        for index, request in enumerate(writes):
            if not (before and overlaps(request, before)) and write(request):
                written.append(request)
            else:
                rest.append(request)
                before.append(span(request))
            # After each: one write that waits is not to make the loop wait for more.
            if monotonic() >= ends_at:
                rest += writes[index + 1 :]
                break
        now = monotonic()
        self._promptness.took_on_loop(now - began, now)
        return rest

    def _write(self, request: HostRequest) -> bool:
        """Mark, preserve, write; False if a thread has to do (all of) it again."""
        offset, length = request.offset, request.length
        if (offset | length) & _PAGE_MASK and not self._edges_in_memory(offset, length):
            return False
        if not self._heat.mark_hot(offset >> self._region_shift):
            return False
        first = offset >> self._track_shift
        count = ((offset + length - 1) >> self._track_shift) - first + 1
        flashcopy = self._changes.flashcopy
        if flashcopy.busy or not flashcopy.is_marked(first, count):
            if flashcopy.is_preserving(first, count):
                return False
            if not flashcopy.stands:
                flashcopy.bitmap.set_range(first, count)
            elif not self._preserve(first, count):
                return False
        try:
            self._device.write(offset, request.data)
        except StorageError:
            return False  # a thread tries again, and knows what ENOSPC asks for
        return True

    def _edges_in_memory(self, offset: int, length: int) -> bool:
        """Tell whether pages that are written in part are there to be completed."""
        size_bytes = self._geometry.size_bytes
        for edge in {offset & ~_PAGE_MASK, (offset + length - 1) & ~_PAGE_MASK}:
            page_bytes = min(_PAGE_MASK + 1, size_bytes - edge)
            if self._device.try_read(edge, page_bytes) is None:
                return False
        return True

    def _preserve(self, first: int, count: int) -> bool:
        """Mark tracks and put their old content into the target, from memory only."""
        flashcopy, standing = self._changes.flashcopy, self._preserver.standing()
        assert standing is not None
        runs = flashcopy.clear_runs(first, count)
        old = self._old_content(runs)
        if old is None:
            return False
        flashcopy.bitmap.set_range(first, count)
        try:
            for at, data in old:
                if not (standing.blank and is_zero(data)):
                    standing.target.write(at, data)
        except StorageError as error:
            # Before the device is written: the torn image must never be readable.
            standing.relation.invalidate(str(error))
        return True

    def _old_content(self, runs: Runs) -> list[tuple[int, bytes | bytearray]] | None:
        found = []
        room = PRESERVE_BYTES_MAX
        for run in runs:
            at, length = self._geometry.byte_range(*run)
            room -= length
            data = self._device.try_read(at, length) if room >= 0 else None
            if data is None:
                return None
            found.append((at, data))
        return found
