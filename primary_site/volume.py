"""A primary volume: where a host's request goes.

    submit -> reads: served from the page cache at once, else by a thread
           -> writes: at once, on the loop, where memory takes them; else
              pin a hot region -> a hop: enter the gate, claim tracks
              -> its thread preserves, then writes, the whole batch
              -> settle, leave, sync if FUA -> complete
           -> flush: one fdatasync begun after every write already replied to

One hop to a thread serves all the writes of one socket read: a hop costs as much
as two or three small requests: see `threaded_writes.py`.
"""

from __future__ import annotations

import asyncio
import errno

from common.errors import StorageError
from common.ports import (
    Clock,
    Complete,
    File,
    HostCommand,
    HostRequest,
    Threads,
)
from common.storage.bitmap import Bitmap
from common.storage.geometry import Geometry
from primary_site.at_once import WritesAtOnce
from primary_site.changes import Room, VolumeChanges
from primary_site.extents import (
    CONTEXTS,
    Look,
    fast_zero_refused,
    note_written,
    read_device,
    tell_extents,
)
from primary_site.gate import Gate
from primary_site.preserving import Preserver
from primary_site.promptness import Promptness
from primary_site.regions import RegionHeat
from primary_site.shared_flush import SharedFlush
from primary_site.sliced_write import SlicedWrite
from primary_site.threaded_writes import ThreadedWrites, error_number
from primary_site.write_order import WriteOrder

SLICE_BYTES = 1 << 20
"""Longer writes, trims and zeroes enter and leave slice by slice, so that a huge
one neither delays a cut nor other I/O."""

INLINE_READ_BYTES_MAX = 256 << 10
"""Copied on the event loop at most, per read: about 30 microseconds."""

READS_OF_A_HOP_MAX = 16
"""Of one batch; they are read one after the other."""

# Plain ints: comparing with a class's attribute is slower.
_READ = HostCommand.READ
_WRITE = HostCommand.WRITE
WRITES = frozenset({HostCommand.WRITE, HostCommand.TRIM, HostCommand.WRITE_ZEROES})


class PrimaryVolume:
    """The `HostVolume` of a primary volume; all methods are the event loop's."""

    contexts: tuple[str, ...] = CONTEXTS

    def __init__(
        self,
        name: str,
        geometry: Geometry,
        device: File,
        threads: Threads,
        gate: Gate,
        changes: VolumeChanges,
        preserver: Preserver,
        heat: RegionHeat,
        flush: SharedFlush,
        clock: Clock,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.name = name
        self.geometry = geometry
        self.size_bytes = geometry.size_bytes
        self.read_only = False
        self.host_batches = 0
        """Batches of requests that hosts have brought: whether they are at it."""
        self.description = f"farshore volume {name}"
        self.preferred_block_bytes = geometry.track_bytes
        self.device = device
        self.fast_zero = device.zeroes_fast(punch=True)
        self.looks: list[Look] = []
        """BLOCK_STATUS requests that are asking the device now."""
        self.threads = threads
        self.changes = changes
        self.preserver = preserver
        self.heat = heat
        self.failed: StorageError | None = None
        self._writes_ended = asyncio.Event()
        self._gate = gate
        self._flush = flush
        self._region_bytes = geometry.region_bytes
        self._region_mask = geometry.region_bytes - 1
        self._order = WriteOrder()
        self.promptness = Promptness()
        self._threaded = ThreadedWrites(
            geometry,
            device,
            threads,
            gate,
            changes,
            preserver,
            heat,
            self.promptness,
            clock,
        )
        self.start_writes = self._threaded.start
        self._at_once = WritesAtOnce(
            geometry, device, changes, preserver, heat, self.promptness, clock
        )

    def release(self) -> None:
        """A connection ended; the volume itself lives on."""

    async def flush(self) -> None:
        """Return after an fdatasync of the device begun from now on."""
        await self._flush.done()

    async def close(self) -> None:
        """Close everything; no request is under way any more."""
        await self.heat.close()
        self.threads.close()
        self.preserver.close()
        self.heat.durable.close()
        self.device.close()

    def grow(self, geometry: Geometry, room: Room) -> tuple[Bitmap, Bitmap]:
        """Serve a larger volume from now on; see `VolumeChanges.grow`.

        One step on the loop. Who connects from here on sees the new size; who is
        connected keeps the size that was agreed.
        """
        found = self.changes.grow(geometry, room)
        self.preserver.take_size(geometry)
        self.heat.take_size(geometry)
        self._at_once.take_size(geometry)
        self._threaded.take_size(geometry)
        self.geometry = geometry
        self.size_bytes = geometry.size_bytes
        return found

    # -- requests --------------------------------------------------------------------

    def refuse_writes(self) -> None:
        """Take no write from now on; those under way go on to their end."""
        self.read_only = True
        self._note_quiet()

    def allow_writes(self) -> None:
        """Take writes again, also from those whose writes were refused meanwhile."""
        self.read_only = False
        self._writes_ended.clear()

    async def writes_ended(self) -> None:
        """Wait until no write is under way any more; they are refused."""
        assert self.read_only
        await self._writes_ended.wait()

    def _note_quiet(self) -> None:
        if self.read_only and not self._order.under_way:
            self._writes_ended.set()

    def submit(self, requests: list[HostRequest], complete: Complete) -> None:
        requests = _without_writes(requests, complete) if self.read_only else requests
        self.host_batches += 1
        finished: list[HostRequest] = []
        writes: list[HostRequest] = []
        missed: list[HostRequest] = []
        for request in requests:
            command, length = request.command, request.length
            if command == _READ:
                if length <= INLINE_READ_BYTES_MAX:
                    data = self.device.try_read(request.offset, length)
                    if data is not None:
                        request.data = data
                        finished.append(request)
                    else:
                        missed.append(request)
                else:
                    self._read([request], complete)
            elif (
                command == _WRITE
                and 0 < length <= SLICE_BYTES
                and (request.offset & self._region_mask) + length <= self._region_bytes
            ):
                writes.append(request)
            else:
                if writes:  # in the order in which they came
                    self._submit_writes(writes, finished, complete)
                    writes = []
                self._submit_other(request, complete)
        for at in range(0, len(missed), READS_OF_A_HOP_MAX):
            self._read(missed[at : at + READS_OF_A_HOP_MAX], complete)
        if writes:
            self._submit_writes(writes, finished, complete)
        if finished:
            complete(finished)

    def _submit_writes(
        self,
        writes: list[HostRequest],
        finished: list[HostRequest],
        complete: Complete,
    ) -> None:
        """Write at once what can be, adding it to `finished`; a hop takes the rest.

        Also while a hop is under way: what it preserves is known, and what overlaps it
        is held back. But a thread that waits may hold a lock of the file that the loop
        would wait for too.
        """
        if self._order.under_way:
            writes = [r for r in writes if not self._order.hold_back(r, complete)]
        if not (self._gate.held or self._threaded.hops.overdue or self.failed):
            written: list[HostRequest] = []
            writes = self._at_once.take(writes, written)
            if self.looks:
                note_written(self.looks, written)
            synced = [request for request in written if request.fua]
            if synced:
                self._sync_then(synced, complete)
                written = [request for request in written if not request.fua]
            finished += written
        going = [r for r in writes if self._order.admit(r, complete)]
        if going:
            self.start_writes(going, lambda ended: self._finish(ended, complete))

    def _slice_bytes(self, offset: int) -> int:
        """Return how long a write at `offset` may be in one piece.

        It ends with its region: a write that held one region while it waited for
        another could wait for a writer that holds that one.
        """
        return min(SLICE_BYTES, self._region_bytes - (offset & self._region_mask))

    def _submit_other(self, request: HostRequest, complete: Complete) -> None:
        if request.fast and fast_zero_refused(self, request):
            request.error = errno.ENOTSUP
            complete([request])
        elif request.command in WRITES and request.length:
            if self._order.admit(request, complete):
                SlicedWrite(
                    request,
                    lambda ended: self._finish(ended, complete),
                    self._slice_bytes,
                    self.start_writes,
                ).next([])
        elif request.command in WRITES:
            self._finish([request], complete)
        elif request.command == HostCommand.FLUSH:
            self._sync_then([request], complete)
        elif request.command == HostCommand.BLOCK_STATUS:
            tell_extents(self, request, complete)
        else:
            assert request.command == HostCommand.CACHE, request.command
            complete([request])

    def _finish(self, requests: list[HostRequest], complete: Complete) -> None:
        """Reply to writes that have left; those with FUA only once they are durable."""
        for waited, answer in self._order.ended(requests):
            self.submit([waited], answer)
        self._note_quiet()
        if self.looks:
            note_written(self.looks, requests)
        synced = [r for r in requests if r.fua and not r.error]
        if not synced:
            complete(requests)
            return
        rest = [r for r in requests if not r.fua or r.error]
        if rest:
            complete(rest)
        self._sync_then(synced, complete)

    def _sync_then(self, requests: list[HostRequest], complete: Complete) -> None:
        def synced(error: StorageError | None) -> None:
            if error is not None:
                for request in requests:
                    request.error = error.errno
            complete(requests)

        self._flush.join(synced)

    def _read(self, requests: list[HostRequest], complete: Complete) -> None:
        """Read what memory does not hold in one hop to a thread.

        Having looked for it in memory has told the device to fetch it (Linux reads
        ahead also for RWF_NOWAIT), so the waits of one batch overlap.
        """

        def read() -> None:
            for request in requests:
                try:
                    request.data = read_device(self.device, request)
                except StorageError as error:
                    request.error = error.errno

        def done(_result: None, error: BaseException | None) -> None:
            if error is not None:
                for request in requests:
                    request.error = request.error or error_number(error)
            complete(requests)

        self.threads.submit(read, done)

    # -- failure ---------------------------------------------------------------------

    def fail(self, error: StorageError) -> None:
        """Fail-stop (I9): no write or flush succeeds again before a restart.

        After a failed fdatasync the kernel calls the lost pages clean, and the
        next one says success: only re-opening and re-reading tells the truth.
        """
        if self.failed is None:
            self.failed = error
            self._threaded.fail(error)
            self._flush.fail(error)
            self.heat.fail(error)


def _without_writes(
    requests: list[HostRequest], complete: Complete
) -> list[HostRequest]:
    """Answer writes with EPERM; return the rest."""
    refused = [request for request in requests if request.command in WRITES]
    for request in refused:
        request.error = errno.EPERM
    if refused:
        complete(refused)
    return [request for request in requests if request.command not in WRITES]
