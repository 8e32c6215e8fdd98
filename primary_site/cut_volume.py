"""A volume as at its last cut, read-only: `GROUP/VOLUME@cut`."""

from __future__ import annotations

import errno

from common.errors import StorageError
from common.ports import BASE_ALLOCATION, Complete, HostCommand, HostRequest
from common.storage.extents import (
    HOLE_AND_ZERO,
    HOLE_RUN_BYTES_MIN,
    SPARSE_READ_BYTES_MIN,
    Extents,
    ReadRuns,
    worth_telling,
)
from primary_site.background import Tasks
from primary_site.cut_reader import CutReader, RelationEndedError
from primary_site.extents import CONTEXTS
from primary_site.standing import Standing
from primary_site.volume import PrimaryVolume

READ_TRACKS_MAX_BYTES = 1 << 20


class CutVolume:
    """The volume as at its last cut, read-only.

    Bound to the cut it was opened at: when the next cut or a withdrawal ends the
    relation, every request ends with EIO, so that no answer mixes two cuts; a cut
    never waits for readers.
    """

    read_only = True
    contexts: tuple[str, ...] = CONTEXTS
    fast_zero = False

    def __init__(self, volume: PrimaryVolume, standing: Standing) -> None:
        self.loop = volume.loop
        self.size_bytes = volume.size_bytes
        self.preferred_block_bytes = volume.preferred_block_bytes
        number = standing.relation.cycle_number
        self.description = f"farshore volume {volume.name} as at cut {number}"
        self._volume = volume
        self._reader = CutReader(volume, standing)
        self._tasks = Tasks()

    def submit(self, requests: list[HostRequest], complete: Complete) -> None:
        for request in requests:
            command = request.command
            if command in {HostCommand.FLUSH, HostCommand.CACHE}:
                complete([request])
            elif command == HostCommand.BLOCK_STATUS or (
                command == HostCommand.READ and request.length
            ):
                self._tasks.start(self._answer(request, complete))
            else:
                request.data = b""
                is_read = command == HostCommand.READ
                request.error = 0 if is_read else errno.EPERM
                complete([request])

    async def _answer(self, request: HostRequest, complete: Complete) -> None:
        offset, length = request.offset, request.length
        try:
            if request.command == HostCommand.BLOCK_STATUS:
                request.data = await self._tell(request.contexts, offset, length)
            elif request.sparse_ok and length >= SPARSE_READ_BYTES_MIN:
                request.data = await self._read_sparse(offset, length)
            else:
                runs = await self._read(offset, length)
                request.data = b"".join(data or bytes(size) for size, data in runs)
        except (RelationEndedError, StorageError):
            request.error = errno.EIO
        complete([request])

    async def _tell(
        self, contexts: tuple[str, ...], offset: int, length: int
    ) -> list[Extents]:
        allocation: Extents = []
        if BASE_ALLOCATION in contexts:
            allocation = await self._reader.allocation(offset, length)
        return [
            allocation
            if name == BASE_ALLOCATION
            else self._reader.changed(offset, length)
            for name in contexts
        ]

    async def _read_sparse(self, offset: int, length: int) -> ReadRuns:
        told = await self._reader.allocation(offset, length)
        holes = ((size, flags == HOLE_AND_ZERO) for size, flags in told)
        found: ReadRuns = []
        for size, is_hole in worth_telling(holes, length):
            if is_hole:
                found.append((size, None))
            else:
                found += await self._read(offset, size)
            offset += size
        return found

    async def _read(self, offset: int, length: int) -> ReadRuns:
        geometry = self._volume.geometry
        first, count = geometry.tracks(offset, length)
        found: ReadRuns = []
        step = max(READ_TRACKS_MAX_BYTES // geometry.track_bytes, 1)
        for start in range(first, first + count, step):
            part = min(step, first + count - start)
            (run,) = await self._reader.read([(start, part)])
            at, size = geometry.byte_range(start, part)
            low, high = max(at, offset), min(at + size, offset + length)
            if run.data is not None:
                found.append((high - low, run.data[low - at : high - at]))
            elif high - low < HOLE_RUN_BYTES_MIN:
                found.append((high - low, bytes(high - low)))
            else:
                found.append((high - low, None))
        return found

    def release(self) -> None:
        """The connection is gone; the relation never depended on it."""
