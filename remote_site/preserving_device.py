"""The device of a volume that was taken over, as the sending role sees it.

A `File` that keeps every point of before: what hosts overwrite is preserved in the
open journal first, as what a sender overwrites is. The sending role does not know.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from common.errors import StorageError
from common.ports import Buffer, File, FileIdentity, Files
from remote_site.applier import preserve, united
from remote_site.bases import Run
from remote_site.secondary import SecondaryVolume

MakeRoom = Callable[[], bool]
"""Gives up the oldest point, for good; False if all that is left has to stay."""


def no_room() -> bool:
    """Give up nothing."""
    return False


class PreservingDevice:
    """A secondary volume's device; any number of threads may write to it at once.

    No two of them write to one track at the same time (`primary_site.hops`).
    """

    def __init__(self, volume: SecondaryVolume, make_room: MakeRoom = no_room) -> None:
        """`make_room` gives up a point, where the journals have no room."""
        device = volume.device
        self.path = device.path
        self.is_block_device = device.is_block_device
        self._volume = volume
        self._device = device
        self._make_room = make_room
        self._turn = threading.Lock()
        self._wanting = threading.Lock()
        self._wanted: list[Run] = []

    # -- what changes it ---------------------------------------------------------------

    def write(self, offset: int, data: Buffer) -> None:
        """Preserve what no journal holds yet, then write.

        Order: the old content of whole tracks into the open journal, fdatasync, its
        index entries; only then the device. The crash it defends against: a point
        that is part of it and part of what hosts wrote after it (I1, I6).
        """
        self._preserve(offset, len(data))
        self._device.write(offset, data)

    def write_zeroes(self, offset: int, length: int, *, punch: bool) -> None:
        """Zero, in the order of `write`."""
        self._preserve(offset, length)
        self._device.write_zeroes(offset, length, punch=punch)

    def _preserve(self, offset: int, length: int) -> None:
        run = self._unpreserved(offset, length)
        if run is None:
            return
        with self._wanting:
            self._wanted.append(run)
        # Whoever comes first preserves for all that wait: one fdatasync.
        with self._turn:
            with self._wanting:
                runs, self._wanted = self._wanted, []
            if runs:
                self._keep(united(runs))
            if self._unpreserved(offset, length) is not None:
                self._keep([run])  # the one who tried for it has failed

    def _keep(self, runs: Sequence[Run]) -> None:
        """Preserve runs; where there is no room, at the price of the oldest points.

        Ends: each turn leaves a point less, and without any nothing is preserved.
        """
        while True:
            try:
                preserve(self._volume, runs)
            except StorageError as error:
                if not error.is_out_of_space or not self._make_room():
                    raise
            else:
                return

    def _unpreserved(self, offset: int, length: int) -> Run | None:
        """Return the tracks of a range unless the open journal holds all of them."""
        journals = self._volume.journals
        if not journals or length == 0:
            return None
        journal = journals[-1]
        # What the volume has grown by since is no part of any point.
        length = min(length, journal.header.size_bytes - offset)
        if length <= 0:
            return None
        first, count = journal.header.geometry.tracks(offset, length)
        preserved = journal.preserved
        assert preserved is not None, "the open journal"
        # A bit that is set was set after its track was durable: no lock is needed.
        if preserved.next_clear(first, first + count) == first + count:
            return None
        return first, count

    # -- what does not -----------------------------------------------------------------

    def size(self) -> int:
        return self._device.size()

    def read(self, offset: int, length: int) -> bytes:
        return self._device.read(offset, length)

    def read_once(self, offset: int, length: int) -> bytes | bytearray:
        return self._device.read_once(offset, length)

    def try_read(self, offset: int, length: int) -> bytes | bytearray | None:
        return self._device.try_read(offset, length)

    def zeroes_fast(self, *, punch: bool) -> bool:
        """Zeroing a track that is to be preserved costs a write of it."""
        del punch
        return False

    def extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        return self._device.extents(offset, length)

    def truncate(self, size: int) -> None:
        """Make it longer: what is new is no part of any point."""
        assert size >= self._device.size(), "a volume never shrinks"
        self._device.truncate(size)

    def allocate(self, size: int) -> None:
        self._device.allocate(size)

    def begin_writing(self, offset: int, length: int) -> None:
        self._device.begin_writing(offset, length)

    def datasync(self) -> None:
        self._device.datasync()

    def drop_cache(self) -> None:
        self._device.drop_cache()

    def identity(self) -> FileIdentity:
        return self._device.identity()

    def close(self) -> None:
        """The store, which has the device open and locked, closes it."""


class PreservingFiles:
    """A file system in which some devices are `PreservingDevice`."""

    def __init__(self, files: Files, devices: Mapping[str, PreservingDevice]) -> None:
        """`devices` by their paths, as the config has them."""
        self._files = files
        self._devices = devices

    def open(
        self,
        path: str,
        *,
        create: bool = False,
        read_only: bool = False,
        lock: bool = False,
        scattered: bool = False,
    ) -> File:
        device = self._devices.get(path)
        if device is not None:
            return device
        return self._files.open(
            path, create=create, read_only=read_only, lock=lock, scattered=scattered
        )

    def exists(self, path: str) -> bool:
        return self._files.exists(path)

    def list(self, directory: str) -> list[str]:
        return self._files.list(directory)

    def make_directory(self, path: str) -> None:
        self._files.make_directory(path)

    def rename(self, old: str, new: str) -> None:
        self._files.rename(old, new)

    def remove(self, path: str) -> None:
        self._files.remove(path)

    def sync_directory(self, path: str) -> None:
        self._files.sync_directory(path)

    def free_bytes(self, path: str) -> int:
        return self._files.free_bytes(path)
