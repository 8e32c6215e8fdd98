"""How Linux is asked to zero a part of a file or block device without writing it all.

Part of the adapter `files.py`: raises `OSError`.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os

BLKZEROOUT = 0x127F
"""From <linux/fs.h>: Python's fcntl module does not name it."""

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10

_TRIAL_BYTES = 1 << 16
"""A whole number of blocks of any file system."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_int64,
]

ZERO_MODE = (
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


def zero_block_device(descriptor: int, offset: int, length: int) -> bool:
    """Zero a part of a block device; False if it is not able to."""
    if offset % 512 or length % 512:
        return False
    try:
        span = array.array("Q", [offset, length])
        fcntl.ioctl(descriptor, BLKZEROOUT, span, True)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL}:
            raise
        return False
    return True


def zeroes_fast(descriptor: int, *, is_block_device: bool) -> tuple[bool, bool]:
    """Tell whether zeroing costs less than writing, without and with punching.

    Of a file: tried on a nameless file beside it, for a trial on the file itself
    would change its times or its room. Of a block device: what its queue says.
    """
    if is_block_device:
        fast = _device_zeroes_fast(descriptor)
        return fast, fast
    return _file_system_zeroes_fast(descriptor)


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
        zero, punch = (fallocate(trial, mode, 0, _TRIAL_BYTES) for mode in ZERO_MODE)
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
