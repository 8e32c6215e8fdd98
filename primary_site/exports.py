"""What a primary exports: its volumes, and their FlashCopy targets, read-only."""

from __future__ import annotations

import errno

from common.errors import StorageError
from common.ports import BASE_ALLOCATION, Complete, HostCommand, HostRequest, HostVolume
from primary_site.background import Tasks
from primary_site.cut_reader import CutReader, RelationEndedError
from primary_site.preserving import Standing
from primary_site.replicator import Replicator
from primary_site.volume import PrimaryVolume

READ_TRACKS_MAX_BYTES = 1 << 20


class CutVolume:
    """`GROUP/VOLUME@cut`: the volume as at its last cut, read-only.

    Bound to the cut it was opened at: when the next cut or a withdrawal ends the
    relation, reads end with EIO; a cut never waits for readers.
    """

    read_only = True
    contexts: tuple[str, ...] = (BASE_ALLOCATION,)
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
            if request.command in {HostCommand.FLUSH, HostCommand.CACHE}:
                complete([request])
            elif request.command == HostCommand.READ and request.length:
                self._tasks.start(self._read(request, complete))
            elif request.command == HostCommand.BLOCK_STATUS:
                # Data: always a safe answer.
                request.data = [[(request.length, 0)] for _ in request.contexts]
                complete([request])
            else:
                request.data = b""
                is_read = request.command == HostCommand.READ
                request.error = 0 if is_read else errno.EPERM
                complete([request])

    async def _read(self, request: HostRequest, complete: Complete) -> None:
        try:
            request.data = await self._read_bytes(request.offset, request.length)
        except (RelationEndedError, StorageError):
            request.error = errno.EIO
        complete([request])

    async def _read_bytes(self, offset: int, length: int) -> bytearray:
        geometry = self._volume.geometry
        first, count = geometry.tracks(offset, length)
        out = bytearray()
        step = max(READ_TRACKS_MAX_BYTES // geometry.track_bytes, 1)
        for start in range(first, first + count, step):
            part = min(step, first + count - start)
            (run,) = await self._reader.read([(start, part)])
            size = geometry.byte_range(start, part)[1]
            out += bytes(size) if run.data is None else run.data
        skip = offset - first * geometry.track_bytes
        return out[skip : skip + length]

    def release(self) -> None:
        """The connection is gone; the relation never depended on it."""


class PrimaryExports:
    """The `ExportTable` of a primary daemon."""

    def __init__(self, replicators: dict[str, Replicator]) -> None:
        self._volumes = {
            f"{group}/{volume.name}": volume
            for group, replicator in replicators.items()
            for volume in replicator.group.volumes
        }

    def names(self) -> list[tuple[str, str]]:
        found = []
        for name, volume in self._volumes.items():
            found.append((name, volume.description))
            if volume.preserver.standing() is not None:
                found.append((f"{name}@cut", f"{volume.description}, at its last cut"))
        return found

    def open(self, name: str) -> HostVolume | None:
        volume = self._volumes.get(name.removesuffix("@cut"))
        if volume is None or not name.endswith("@cut"):
            return volume
        standing = volume.preserver.standing()
        if standing is None or not standing.relation.readable:
            return None
        return CutVolume(volume, standing)
