"""What a test copy has written of a volume, on top of a recovery point.

A sparse file as long as the volume, and a bitmap of the tracks that lie in it; all
other tracks are the point's. A track's bit is set after all of its bytes are in the
file, and never cleared: who reads beside a write finds the old content or the new.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import numpy as np

from common.errors import StorageError
from common.ports import Buffer, File
from common.storage.bitmap import Bitmap
from common.storage.extents import (
    HOLE_AND_ZERO,
    Extents,
    ReadRuns,
    bits_of,
    hole_bits,
    runs_of,
    tell_bits,
    window,
    worth_telling,
)
from common.storage.flush_guard import FlushGuard
from remote_site.recovery_point import PointImage

ZERO_BYTES_MAX = 64 << 20
"""Zeroed at once where zeroes take room: the room is looked at again so often."""


class Overlay:
    """Synchronous, in threads: any number may read, one at a time may change.

    `file` is empty and as long as the point; `free_bytes` says how much more test
    copies may take of its file system. Errors are `StorageError`, or what reading the
    point raises; a change that failed has changed nothing of tracks that were the
    point's.
    """

    def __init__(
        self, image: PointImage, file: File, free_bytes: Callable[[], int]
    ) -> None:
        self.geometry = image.geometry
        self.version = 0
        """Counts the changes made: an answer found before the newest is an old one."""
        self._image = image
        self._file = file
        self._free_bytes = free_bytes
        self._guard = FlushGuard()
        self._own = Bitmap(self.geometry.track_count)

    @property
    def own_bytes(self) -> int:
        """Bytes of the tracks that are its own: what it may cost in room."""
        return self._own.count * self.geometry.track_bytes

    def close(self) -> None:
        self._file.close()

    # -- reading -----------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytearray:
        data = bytearray(length)
        for start, size, is_own in self._pieces(offset, length):
            source = self._file if is_own else self._image
            data[start - offset : start - offset + size] = source.read(start, size)
        return data

    def read_runs(self, offset: int, length: int) -> ReadRuns:
        """Return the bytes in runs, those of holes unread.

        What is written meanwhile may be answered either way, as with any read.
        """
        told = self.status(offset, length)
        holes = ((size, flags == HOLE_AND_ZERO) for size, flags in told)
        return runs_of(worth_telling(holes, length), offset, self.read)

    def status(self, offset: int, length: int) -> Extents:
        """Return (length, flags) from `offset`; may stop short of `length`."""
        first, count = window(self.geometry, offset, length)
        at, size = self.geometry.byte_range(first, count)
        own = bits_of(self._own, first, count)
        holes = hole_bits(
            ((n, flags == HOLE_AND_ZERO) for n, flags in self._image.status(at, size)),
            self.geometry,
            first,
            count,
        )
        if own.any():
            extents = self._file.extents(at, size)
            mine = hole_bits(extents, self.geometry, first, count)
            holes = np.where(own, mine, holes)
        return tell_bits(holes, self.geometry, first, offset, length, HOLE_AND_ZERO)

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield consecutive (offset, length, whether it lies in the file)."""
        end = offset + length
        first, count = self.geometry.tracks(offset, length)
        cursor = first
        for start, tracks in [
            *self._own.runs_now(first, first + count),
            (first + count, 0),
        ]:
            for track, number, is_own in (
                (cursor, start - cursor, False),
                (start, tracks, True),
            ):
                if number:
                    at, size = self.geometry.byte_range(track, number)
                    begin = max(at, offset)
                    yield begin, min(at + size, end) - begin, is_own
            cursor = start + tracks

    # -- changing ----------------------------------------------------------------------

    def write(self, offset: int, data: Buffer) -> None:
        """Write any range; of tracks covered in part the rest is copied first."""
        self._guard.check()
        length = len(data)
        first, count = self.geometry.tracks(offset, length)
        at, size = self.geometry.byte_range(first, count)
        self._check_room(at, size)
        last = first + count - 1
        before, after = offset - at, at + size - offset - length
        if before and not self._own.test(first):
            self._file.write(at, self._image.read(at, before))
        if after and not self._own.test(last):
            end = offset + length
            self._file.write(end, self._image.read(end, after))
        self._file.write(offset, data)
        self._own.set_range(first, count)
        self.version += 1

    def zero(self, offset: int, length: int, *, punch: bool) -> None:
        """Make a range read as zeroes; `punch` gives the room of whole tracks back."""
        for start, size, is_whole in self._cut(offset, length):
            if not is_whole:
                self.write(start, bytes(size))
                continue
            self._guard.check()
            takes_room = not (punch and self._file.zeroes_fast(punch=True))
            step = ZERO_BYTES_MAX if takes_room else size
            for at in range(start, start + size, step):
                part = min(step, start + size - at)
                if takes_room:
                    self._check_room(at, part)
                self._file.write_zeroes(at, part, punch=punch)
                self._own.set_range(*self.geometry.tracks(at, part))
                self.version += 1

    def trim(self, offset: int, length: int) -> None:
        """Make the whole tracks of a range holes; the rest stays as it is."""
        if self._file.zeroes_fast(punch=True):
            for start, size, is_whole in self._cut(offset, length):
                if is_whole:
                    self.zero(start, size, punch=True)

    def zeroes_fast(self, offset: int, length: int, *, punch: bool) -> bool:
        """Tell whether zeroing a range costs less than writing it."""
        return self._file.zeroes_fast(punch=punch) and all(
            is_whole for _, _, is_whole in self._cut(offset, length)
        )

    def ask_what_is_fast(self) -> None:
        """Learn how the file system zeroes: blocks, where later questions do not."""
        self._file.zeroes_fast(punch=True)

    def datasync(self) -> None:
        """Bring all that was written to the disk, which has to prove able to.

        After the first failure every change and every flush fails.
        """
        self._guard.datasync(self._file)

    def _cut(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, whether whole tracks) of up to three pieces."""
        track_bytes, end = self.geometry.track_bytes, offset + length
        start = -(-offset // track_bytes) * track_bytes
        stop = end // track_bytes * track_bytes
        if end == self.geometry.size_bytes:
            stop = end  # the last track may be cut
        if start >= stop:
            yield offset, length, False
            return
        if offset < start:
            yield offset, start - offset, False
        yield start, stop - start, True
        if stop < end:
            yield stop, end - stop, False

    def _check_room(self, offset: int, length: int) -> None:
        """Raise ENOSPC where a write would take more room than test copies may have.

        What lies in the file already may be overwritten: it takes none.
        """
        free = self._free_bytes()
        if length <= free:
            return
        needed = sum(
            size for size, is_hole in self._file.extents(offset, length) if is_hole
        )
        if needed > max(free, 0):
            raise StorageError(
                "no room for the test copy", errno=errno.ENOSPC, file=self._file.path
            )
