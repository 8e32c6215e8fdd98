"""Host writes that go to a thread: pinned, entered, claimed, written, left.

What a batch waits for, in this order: its regions to be hot, a hop, the gate, tracks
that another batch preserves. The order of a write (mark, preserve, write) is that of
`_begin` and `HostWriteBatch.run`. Owned by the event loop.
"""

from __future__ import annotations

import errno

from common.errors import StorageError
from common.ports import Clock, Complete, File, HostRequest, Threads
from common.storage.flashcopy import Runs
from common.storage.geometry import Geometry
from primary_site.changes import VolumeChanges
from primary_site.gate import Gate
from primary_site.hops import WriteHops
from primary_site.preserving import HostWriteBatch, Preserver
from primary_site.promptness import Promptness
from primary_site.regions import Region, RegionHeat


class _Pinned:
    """Writes of one batch and the hot regions they hold."""

    __slots__ = ("batch", "complete", "regions", "requests", "runs")

    batch: HostWriteBatch

    def __init__(self, complete: Complete) -> None:
        self.complete = complete
        self.requests: list[HostRequest] = []
        self.regions: list[Region] = []
        self.runs: Runs = []


class ThreadedWrites:
    """The writes of one volume that a thread is at, or will be."""

    def __init__(
        self,
        geometry: Geometry,
        device: File,
        threads: Threads,
        gate: Gate,
        changes: VolumeChanges,
        preserver: Preserver,
        heat: RegionHeat,
        promptness: Promptness,
        clock: Clock,
    ) -> None:
        self.hops = WriteHops(
            threads, gate, self._begin, self._wrote, promptness, clock
        )
        self._failed: StorageError | None = None
        self._geometry = geometry
        self._device = device
        self._gate = gate
        self._flashcopy = changes.flashcopy
        self._preserver = preserver
        self._heat = heat
        self._region_bytes = geometry.region_bytes
        self._region_shift = geometry.region_bytes.bit_length() - 1
        self._track_shift = geometry.track_bytes.bit_length() - 1
        self._blocked: list[_Pinned] = []
        """Batches that wait for tracks which another one preserves."""

    def take_size(self, geometry: Geometry) -> None:
        self._geometry = geometry

    def fail(self, error: StorageError) -> None:
        """Begin no write any more (I9); those under way go on to their end."""
        self._failed = error

    def start(self, requests: list[HostRequest], complete: Complete) -> None:
        """Pin the region of each write; those of a region not yet hot wait for it."""
        pinned = _Pinned(complete)
        pin, shift = self._heat.pin, self._region_shift
        region_bytes = self._region_bytes
        for request in requests:
            number = request.offset >> shift
            end = request.offset + request.length
            assert end <= (number + 1) * region_bytes, "it ends with its region"
            region = pin(number)
            if region is None:
                self._wait_hot(number, request, complete)
                continue
            pinned.regions.append(region)
            pinned.requests.append(request)
        if pinned.requests:
            self.hops.submit(pinned)

    def _wait_hot(self, region: int, request: HostRequest, complete: Complete) -> None:
        if self._failed is not None:
            self._fail([request], complete)
            return
        self._heat.wait(region, lambda: self.start([request], complete))

    def _begin(self, pinned: _Pinned) -> HostWriteBatch | None:
        """Enter the gate, mark and claim, in one step; return what a thread does.

        None if it ended at once (a failed volume) or has to wait: tracks that are
        being preserved for another batch make the whole of this one wait for that
        one, so a batch that waits owns no track, and no two wait for each other.
        """
        if self._failed is not None:
            self._unpin(pinned)
            self._fail(pinned.requests, pinned.complete)
            return None
        if self._flashcopy.busy and self._must_wait(pinned):
            self._blocked.append(pinned)
            return None
        self._gate.enter(len(pinned.requests))
        claim, shift = self._flashcopy.claim, self._track_shift
        for request in pinned.requests:
            first = request.offset >> shift
            count = ((request.offset + request.length - 1) >> shift) - first + 1
            runs = claim(first, count, pinned)
            if runs:
                pinned.runs += runs
        pinned.batch = HostWriteBatch(
            self._device,
            self._geometry,
            self._preserver.standing(),
            pinned.runs,
            pinned.requests,
        )
        return pinned.batch

    def _must_wait(self, pinned: _Pinned) -> bool:
        tracks = self._geometry.tracks
        is_preserving = self._flashcopy.is_preserving
        return any(is_preserving(*tracks(r.offset, r.length)) for r in pinned.requests)

    def _wrote(self, pinned: _Pinned, error: BaseException | None) -> None:
        if error is not None:
            number = error_number(error)
            for request in pinned.requests:
                request.error = request.error or number
            pinned.batch.invalidate(repr(error))
        if pinned.runs:
            self._flashcopy.settle(pinned.runs)
        self._left(pinned)
        if self._blocked:
            blocked, self._blocked = self._blocked, []
            for waiting in blocked:
                self.hops.submit(waiting)

    def _unpin(self, pinned: _Pinned) -> None:
        for region in pinned.regions:
            self._heat.unpin(region)

    def _left(self, pinned: _Pinned) -> None:
        self._unpin(pinned)
        try:
            # The replies first: whoever cuts now finds them already on their way.
            pinned.complete(pinned.requests)
        finally:
            self._gate.leave(len(pinned.requests))

    def _fail(self, requests: list[HostRequest], complete: Complete) -> None:
        assert self._failed is not None
        for request in requests:
            request.error = self._failed.errno
        complete(requests)


def error_number(error: BaseException) -> int:
    """Return the errno a host sees for what a thread raised."""
    return error.errno if isinstance(error, StorageError) else errno.EIO
