"""A host volume that is memory, and export tables made of such volumes."""

from __future__ import annotations

import asyncio
import errno

from common.ports import BASE_ALLOCATION, Complete, HostCommand, HostRequest, HostVolume

HOLE_AND_ZERO = 3


class MemoryVolume:
    """Answers at once, unless `held`: then `step` answers what was submitted.

    `allocated` has one byte per block of `BLOCK_BYTES`: 1 where something was
    written since the last trim or zeroing of the whole block.
    """

    BLOCK_BYTES = 4096
    contexts: tuple[str, ...] = (BASE_ALLOCATION,)
    fast_zero = False

    def __init__(
        self,
        size_bytes: int,
        *,
        read_only: bool = False,
        description: str = "memory",
        held: bool = False,
    ) -> None:
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.description = description
        self.preferred_block_bytes = self.BLOCK_BYTES
        self.content = bytearray(size_bytes)
        self.allocated = bytearray(-(-size_bytes // self.BLOCK_BYTES))
        self.held = held
        self.waiting: list[tuple[HostRequest, Complete]] = []
        self.submitted: list[list[HostRequest]] = []
        self.keeps_submitted = False
        self.flush_count = 0
        self.fua_count = 0
        self.opened_count = 0
        self.released_count = 0
        self.errno_of: dict[int, int] = {}

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def submit(self, requests: list[HostRequest], complete: Complete) -> None:
        if self.keeps_submitted:
            self.submitted.append(requests)
        if self.held:
            self.waiting += [(request, complete) for request in requests]
            return
        for request in requests:
            self._run(request)
        complete(requests)

    def step(self, count: int = 1, *, last: bool = False) -> None:
        """Run and complete the first (or last) `count` of the held requests."""
        for _ in range(count):
            request, complete = self.waiting.pop(-1 if last else 0)
            self._run(request)
            complete([request])

    def release(self) -> None:
        self.released_count += 1
        assert self.released_count <= self.opened_count
        if self.released_count == self.opened_count:
            # Before, they may be another connection's.
            assert not self.waiting, "released with requests in flight"

    def _run(self, request: HostRequest) -> None:
        request.error = self.errno_of.get(request.command, 0)
        if request.error:
            return
        start, stop = request.offset, request.offset + request.length
        assert 0 <= start <= stop <= self.size_bytes
        self.fua_count += request.fua
        match request.command:
            case HostCommand.READ:
                request.data = bytes(memoryview(self.content)[start:stop])
            case HostCommand.WRITE:
                assert len(request.data) == request.length
                self.content[start:stop] = request.data
                self._mark(start, stop)
            case HostCommand.FLUSH:
                self.flush_count += 1
            case HostCommand.TRIM | HostCommand.WRITE_ZEROES:
                self.content[start:stop] = bytes(request.length)
                if request.no_hole:
                    self._mark(start, stop)
                else:
                    self._unmark(start, stop)
            case HostCommand.BLOCK_STATUS:
                told = self._extents(start, stop)
                request.data = [told for _ in request.contexts]
            case HostCommand.CACHE:
                pass
            case _:
                request.error = errno.EINVAL

    def _mark(self, start: int, stop: int) -> None:
        first, last = start // self.BLOCK_BYTES, (stop - 1) // self.BLOCK_BYTES
        self.allocated[first : last + 1] = b"\x01" * (last + 1 - first)

    def _unmark(self, start: int, stop: int) -> None:
        first = -(-start // self.BLOCK_BYTES)
        is_end = stop == self.size_bytes
        last = len(self.allocated) if is_end else stop // self.BLOCK_BYTES
        if last > first:
            self.allocated[first:last] = bytes(last - first)

    def _extents(self, start: int, stop: int) -> list[tuple[int, int]]:
        extents = []
        while start < stop:
            block = start // self.BLOCK_BYTES
            end = min(stop, (block + 1) * self.BLOCK_BYTES)
            flags = 0 if self.allocated[block] else HOLE_AND_ZERO
            extents.append((end - start, flags))
            start = end
        return extents


class MemoryExports:
    """An export table of memory volumes that counts its openings."""

    def __init__(self, volumes: dict[str, MemoryVolume]) -> None:
        self.volumes = volumes

    def names(self) -> list[tuple[str, str]]:
        return [(name, volume.description) for name, volume in self.volumes.items()]

    def open(self, name: str) -> HostVolume | None:
        volume = self.volumes.get(name)
        if volume is not None:
            volume.opened_count += 1
        return volume

    def all_released(self) -> bool:
        return all(v.opened_count == v.released_count for v in self.volumes.values())
