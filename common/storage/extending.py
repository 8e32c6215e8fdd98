"""Making what lies behind a volume longer; never shorter."""

from __future__ import annotations

import mmap

from common.errors import DeviceError
from common.ports import File


def check_extendable(device: File, size_bytes: int) -> None:
    """Raise `DeviceError` if `extend` would for sure; changes nothing."""
    if device.is_block_device and device.size() < size_bytes:
        raise DeviceError(
            f"{device.path} is a block device of {device.size()} bytes: enlarge it to "
            f"at least {size_bytes} first (lvextend, say)"
        )


def extend(device: File, size_bytes: int) -> None:
    """Make a device at least `size_bytes` long; durable after its next `datasync`.

    New bytes of a file read as zeroes and cost no room. A block device has to be so
    long already, and what its new bytes hold is unknown. Raises `DeviceError`, or
    `StorageError` where the file system can't.
    """
    check_extendable(device, size_bytes)
    if device.size() < size_bytes:
        device.truncate(size_bytes)


def forget_short_page(device: File, before_bytes: int, size_bytes: int) -> bool:
    """Have the old end of a block device read anew; False if that is to be tried again.

    After `datasync`. Of a device that ended within a page the kernel has zeroes in
    memory up to the page's end. It goes on showing them after the device has become
    longer, until it drops the page: then, unasked, what the disk holds.
    """
    behind = -before_bytes % mmap.PAGESIZE
    if not device.is_block_device or behind == 0:
        return True
    device.drop_cache()  # but for a page that was written since
    behind = min(behind, size_bytes - before_bytes)
    return device.try_read(before_bytes, behind) is None
