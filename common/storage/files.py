"""The disk: `File` and `Files` over system calls, zeroing by `zeroing.py`.

Regular files and block devices. `OSError` ends here: callers see `StorageError`,
`DeviceError` or `DeviceBusyError`, each naming the file.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator

from common.errors import DeviceBusyError, DeviceError, StorageError
from common.ports import Buffer, FileIdentity
from common.storage.zeroing import (
    ZERO_MODE,
    fallocate,
    zero_block_device,
    zeroes_fast,
)

BLKGETSIZE64 = 0x80081272
"""From <linux/fs.h>: Python's fcntl module does not name it."""

RWF_DONTCACHE = 0x80
"""Linux 6.14 on ext4, XFS, btrfs: pages that a read brought in are dropped after it."""

SYNC_FILE_RANGE_WRITE = 0x02

EXTENTS_MAX = 4096
"""Extents listed by one call: bounds the time and memory of a fragmented file."""

ZERO_CHUNK_BYTES = 1 << 20
_ZEROES = bytes(ZERO_CHUNK_BYTES)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = [
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_uint,
]


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _storage_error(path, error) from error


def _storage_error(path: str, error: OSError) -> StorageError:
    number = error.errno or errno.EIO
    return StorageError(os.strerror(number), errno=number, file=path)


class SystemFile:
    """An open file descriptor behind the `File` port."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.is_block_device = stat.S_ISBLK(os.fstat(descriptor).st_mode)
        self.knows_read_once = True  # until the system says that it can't
        self._zeroes_fast: tuple[bool, bool] | None = None
        """Without and with punching."""

    def size(self) -> int:
        with _translated(self.path):
            if not self.is_block_device:
                return os.fstat(self._descriptor).st_size
            buffer = array.array("Q", [0])
            fcntl.ioctl(self._descriptor, BLKGETSIZE64, buffer, True)
            return buffer[0]

    def read(self, offset: int, length: int) -> bytes:
        # The two hottest calls spare themselves the context manager: a microsecond.
        try:
            data = os.pread(self._descriptor, length, offset)
            if len(data) == length:
                return data
            return self._read_rest(data, offset, length)
        except OSError as error:
            raise _storage_error(self.path, error) from error

    def _read_rest(self, data: bytes, offset: int, length: int) -> bytes:
        # Linux returns at most 2 GiB less 4 KiB a call, and less on a signal.
        parts = [data]
        have = len(data)
        while have < length:
            part = os.pread(self._descriptor, length - have, offset + have)
            if not part:
                raise OSError(errno.EIO, "read past the end")
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def try_read(self, offset: int, length: int) -> bytes | bytearray | None:
        buffer = bytearray(length)
        try:
            # Only what the page cache holds, whole: anything less means a wait.
            if os.preadv(self._descriptor, [buffer], offset, os.RWF_NOWAIT) == length:
                return buffer
        except OSError:
            # EAGAIN: not cached; EOPNOTSUPP: this file system can't tell. A real
            # error will meet the blocking read that follows.
            return None
        return None

    def read_once(self, offset: int, length: int) -> bytes | bytearray:
        if not self.knows_read_once:
            return self.read(offset, length)
        buffer = bytearray(length)
        try:
            have = os.preadv(self._descriptor, [buffer], offset, RWF_DONTCACHE)
            if have == length:
                return buffer
            return self._read_rest(bytes(buffer[:have]), offset, length)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise _storage_error(self.path, error) from error
        self.knows_read_once = False
        return self.read(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        try:
            done = os.pwrite(self._descriptor, data, offset)
            if done != len(data):
                self._write_rest(memoryview(data)[done:], offset + done)
        except OSError as error:
            raise _storage_error(self.path, error) from error

    def _write_rest(self, data: memoryview, offset: int) -> None:
        # Short writes precede ENOSPC: loop until it says so.
        done = 0
        while done < len(data):
            wrote = os.pwrite(self._descriptor, data[done:], offset + done)
            if not wrote:
                raise OSError(errno.EIO, "write made no progress")
            done += wrote

    def write_zeroes(self, offset: int, length: int, *, punch: bool) -> None:
        if length == 0:
            return
        with _translated(self.path):
            if fallocate(self._descriptor, ZERO_MODE[punch], offset, length):
                return
            if self.is_block_device and zero_block_device(
                self._descriptor, offset, length
            ):
                return
        self._write_literal_zeroes(offset, length)

    def _write_literal_zeroes(self, offset: int, length: int) -> None:
        for start in range(offset, offset + length, ZERO_CHUNK_BYTES):
            count = min(ZERO_CHUNK_BYTES, offset + length - start)
            self.write(start, memoryview(_ZEROES)[:count])

    def zeroes_fast(self, *, punch: bool) -> bool:
        """Tell whether zeroing costs less than writing; asked of the system once."""
        if self._zeroes_fast is None:
            self._zeroes_fast = zeroes_fast(
                self._descriptor, is_block_device=self.is_block_device
            )
        return self._zeroes_fast[punch]

    def extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        if self.is_block_device:
            return [(length, False)]
        end = offset + length
        found: list[tuple[int, bool]] = []
        while offset < end and len(found) < EXTENTS_MAX:
            data = self._seek(offset, os.SEEK_DATA, end)
            if data > offset:
                found.append((min(data, end) - offset, True))
                offset = data
                continue
            hole = self._seek(offset, os.SEEK_HOLE, end)
            found.append((min(hole, end) - offset, False))
            offset = hole
        return found

    def _seek(self, offset: int, whence: int, end: int) -> int:
        with _translated(self.path):
            try:
                return os.lseek(self._descriptor, offset, whence)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return end
                if error.errno == errno.EINVAL:  # this file system can't tell
                    return offset if whence == os.SEEK_DATA else end
                raise

    def truncate(self, size: int) -> None:
        with _translated(self.path):
            os.ftruncate(self._descriptor, size)

    def allocate(self, size: int) -> None:
        with _translated(self.path):
            os.posix_fallocate(self._descriptor, 0, size)

    def begin_writing(self, offset: int, length: int) -> None:
        # Only with the flags that wait does it take a failure off the file (errseq_t):
        # the next fdatasync still meets what fails here.
        _libc.sync_file_range(self._descriptor, offset, length, SYNC_FILE_RANGE_WRITE)

    def datasync(self) -> None:
        with _translated(self.path):
            os.fdatasync(self._descriptor)

    def drop_cache(self) -> None:
        with _translated(self.path):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def identity(self) -> FileIdentity:
        with _translated(self.path):
            found = os.fstat(self._descriptor)
        device = found.st_rdev if self.is_block_device else found.st_dev
        # A block device's node is made anew at each boot and has no time of change.
        inode = 0 if self.is_block_device else found.st_ino
        changed_ns = 0 if self.is_block_device else found.st_mtime_ns
        return FileIdentity(device, inode, self.size(), changed_ns)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            # What counts was synced before; a device that is gone says so once more,
            # and the descriptor is closed all the same.
            with contextlib.suppress(OSError):
                os.close(descriptor)


class SystemFiles:
    """The host's file systems behind the `Files` port."""

    def open(
        self,
        path: str,
        *,
        create: bool = False,
        read_only: bool = False,
        lock: bool = False,
        scattered: bool = False,
    ) -> SystemFile:
        flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
        if create:
            flags |= os.O_CREAT
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise _open_error(path, error) from error
        try:
            _check_kind(path, descriptor)
            if lock:
                _lock(path, descriptor)
            if scattered:
                # Reading ahead brings large folios, and ext4 walks all buffers of a
                # folio for each small write to it (Linux 6.18: 2 MiB, 14 us).
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        except BaseException:
            os.close(descriptor)
            raise
        return SystemFile(path, descriptor)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def list(self, directory: str) -> list[str]:
        with _translated(directory):
            return sorted(os.listdir(directory))

    def make_directory(self, path: str) -> None:
        """Create it and its parents, durably; an existing one is fine.

        Order: the directory, then its name, durably; only then is anything put into it.
        So an empty one may be of a process that was killed in between: its name is made
        durable now. The crash it defends against: power that is lost after that takes
        the directory, and all that was promised of the files in it.
        """
        parent = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(path):
            self.make_directory(parent)
            _make_directory(path)
        elif not _may_be_cut_short(path, parent):
            return
        self.sync_directory(parent)

    def rename(self, old: str, new: str) -> None:
        with _translated(new):
            os.replace(old, new)

    def remove(self, path: str) -> None:
        with _translated(path):
            os.unlink(path)

    def sync_directory(self, path: str) -> None:
        with _translated(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        with _translated(path):
            found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


def _make_directory(path: str) -> None:
    """Make one; another process may have made it meanwhile."""
    with _translated(path):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise


def _may_be_cut_short(path: str, parent: str) -> bool:
    """Tell whether a directory may have no durable name yet.

    Not where this process may not read the directory above: it did not make it.
    """
    with _translated(path):
        return os.access(parent, os.R_OK) and not os.listdir(path)


def _open_error(path: str, error: OSError) -> DeviceError | StorageError:
    if error.errno == errno.ENOENT:
        return DeviceError(f"{path}: no such file or device; create it or mend the key")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return DeviceError(
            f"{path}: {os.strerror(error.errno)}; give the daemon's user access to it"
        )
    return _storage_error(path, error)


def _check_kind(path: str, descriptor: int) -> None:
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise DeviceError(f"{path}: neither a regular file nor a block device")


def _lock(path: str, descriptor: int) -> None:
    # An open-file-description lock: it dies with the last descriptor of a killed
    # process, and unlike POSIX locks a second open in this process can't drop it.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            raise DeviceBusyError(
                f"{path}: in use by another daemon: stop that one, or name another"
            ) from error
        raise StorageError(
            "cannot be locked", errno=error.errno or errno.EIO, file=path
        ) from error


assert sys.platform == "linux", "farshore runs on Linux only"
