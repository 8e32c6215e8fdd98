"""The one module that touches the disk: `File` and `Files` over system calls.

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

# From <linux/fs.h>: Python's fcntl module does not name these.
BLKGETSIZE64 = 0x80081272
BLKZEROOUT = 0x127F

RWF_DONTCACHE = 0x80
"""Linux 6.14 on ext4, XFS, btrfs: pages that a read brought in are dropped after it."""

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10

SYNC_FILE_RANGE_WRITE = 0x02

EXTENTS_MAX = 4096
"""Extents listed by one call: bounds the time and memory of a fragmented file."""

ZERO_CHUNK_BYTES = 1 << 20
_ZEROES = bytes(ZERO_CHUNK_BYTES)
_TRIAL_BYTES = 1 << 16
"""A whole number of blocks of any file system."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_int64,
]
_libc.sync_file_range.argtypes = [
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_uint,
]

_ZERO_MODE = (
    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
)
"""Without and with punching. A block device knows both, too, where it is able."""


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> bool:
    """Call fallocate(2); False if what the file lies on does not know the mode."""
    number = errno.EINTR
    while number == errno.EINTR:  # a signal; Python retries its own calls only
        if _libc.fallocate(descriptor, mode, offset, length) == 0:
            return True
        number = ctypes.get_errno()
    if number not in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
        raise OSError(number, os.strerror(number))
    return False


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
            if fallocate(self._descriptor, _ZERO_MODE[punch], offset, length):
                return
            if self.is_block_device and self._zero_block_device(offset, length):
                return
        self._write_literal_zeroes(offset, length)

    def _zero_block_device(self, offset: int, length: int) -> bool:
        if offset % 512 or length % 512:
            return False
        try:
            span = array.array("Q", [offset, length])
            fcntl.ioctl(self._descriptor, BLKZEROOUT, span, True)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL}:
                raise
            return False
        return True

    def _write_literal_zeroes(self, offset: int, length: int) -> None:
        for start in range(offset, offset + length, ZERO_CHUNK_BYTES):
            count = min(ZERO_CHUNK_BYTES, offset + length - start)
            self.write(start, memoryview(_ZEROES)[:count])

    def zeroes_fast(self, *, punch: bool) -> bool:
        """Tell whether zeroing costs less than writing; asked of the system once.

        Of a file: tried on a nameless file beside it, for a trial on the file itself
        would change its times or its room. Of a block device: what its queue says.
        """
        if self._zeroes_fast is None:
            if self.is_block_device:
                fast = _device_zeroes_fast(self._descriptor)
                self._zeroes_fast = (fast, fast)
            else:
                self._zeroes_fast = _file_system_zeroes_fast(self._descriptor)
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
        if os.path.isdir(path):
            return
        parent = os.path.dirname(os.path.abspath(path))
        self.make_directory(parent)
        with _translated(path):
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise
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


def _file_system_zeroes_fast(descriptor: int) -> tuple[bool, bool]:
    """Try both ways of zeroing on a file without a name in the same folder.

    Where none can be made there (no right to write, another file system mounted on
    the file's own name) nothing is known, and so nothing is promised.
    """
    try:
        folder = os.path.dirname(os.readlink(f"/proc/self/fd/{descriptor}"))
        trial = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return False, False
    try:
        if os.fstat(trial).st_dev != os.fstat(descriptor).st_dev:
            return False, False
        os.ftruncate(trial, _TRIAL_BYTES)
        zero, punch = (fallocate(trial, mode, 0, _TRIAL_BYTES) for mode in _ZERO_MODE)
    except OSError:
        return False, False
    else:
        return zero, punch
    finally:
        os.close(trial)


def _device_zeroes_fast(descriptor: int) -> bool:
    """Ask the queue of a block device, or of the one that a partition lies on."""
    number = os.fstat(descriptor).st_rdev
    path = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    for queue in (f"{path}/queue", f"{path}/../queue"):
        try:
            with open(f"{queue}/write_zeroes_max_bytes") as told:
                return int(told.read()) > 0
        except (OSError, ValueError):
            continue
    return False


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
                f"{path}: in use by another daemon; stop it, or name another device"
            ) from error
        raise StorageError(
            "cannot be locked", errno=error.errno or errno.EIO, file=path
        ) from error


assert sys.platform == "linux", "farshore runs on Linux only"
