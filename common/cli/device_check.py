"""A look at the devices that a config will name, before a daemon does."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from common.cli.display import size_text
from common.cli.site_pair import VolumePlan
from common.errors import DeviceError
from common.service.units import parse_size

SECTOR_BYTES = 512


def check_device(volume: VolumePlan) -> Iterator[str]:
    """Yield what is worth knowing of a volume's device.

    Raises `DeviceError` where a daemon could not use it.
    """
    try:
        status = Path(volume.device).stat()
    except FileNotFoundError:
        yield from _absent(volume)
        return
    except OSError as error:
        raise DeviceError(
            f"volume {volume.name}: {volume.device}: {error.strerror}: name another "
            "device, or run this as root"
        ) from None
    if stat.S_ISBLK(status.st_mode):
        yield from _block_device(volume)
    elif stat.S_ISREG(status.st_mode):
        yield _file(volume, status.st_size)
    else:
        raise DeviceError(
            f"volume {volume.name}: {volume.device} is neither a file nor a block "
            "device: name another one"
        )


def _absent(volume: VolumePlan) -> Iterator[str]:
    if volume.size is None:
        raise DeviceError(
            f"volume {volume.name}: there is no {volume.device}: attach the device, or "
            f"have a file made, with {volume.name}=SIZE"
        )
    folder = Path(volume.device).parent
    while not folder.exists():
        folder = folder.parent
    system = os.statvfs(folder)
    free_bytes, size_bytes = system.f_bavail * system.f_frsize, parse_size(volume.size)
    yield f"volume {volume.name}: {volume.device} will be made, {volume.size}, sparse"
    if free_bytes < size_bytes:
        yield (
            f"  its file system has {size_text(free_bytes)} free: once hosts have "
            "written that much, their writes fail"
        )


def _block_device(volume: VolumePlan) -> Iterator[str]:
    try:
        # Refused while it is mounted, or part of something else.
        descriptor = os.open(volume.device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        remedy = "name another one, or run this as root"
        if error.errno == errno.EBUSY:
            remedy = "unmount it, or take it out of what uses it"
        raise DeviceError(
            f"volume {volume.name}: {volume.device}: {error.strerror}: {remedy}"
        ) from None
    try:
        size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
    yield (
        f"volume {volume.name}: {volume.device}, a block device of "
        f"{size_text(size_bytes)}; what it holds is kept, and copied"
    )
    yield (
        "  under systemd: `systemctl edit farshore-primary`, with [Service] "
        f"PrivateDevices=no, PrivateUsers=no, DeviceAllow={volume.device} rw, "
        "SupplementaryGroups=disk"
    )


def _file(volume: VolumePlan, size_bytes: int) -> str:
    wanted = size_bytes if volume.size is None else parse_size(volume.size)
    if size_bytes != wanted or not size_bytes or size_bytes % SECTOR_BYTES:
        raise DeviceError(
            f"volume {volume.name}: {volume.device} has {size_bytes} bytes, where "
            f"{volume.size or 'a multiple of 512'} was wanted: name another file, or "
            f"keep it with {volume.name}={volume.device}"
        )
    return (
        f"volume {volume.name}: {volume.device}, a file of {size_text(size_bytes)}; "
        "what it holds is kept, and copied"
    )
