"""Open or make the devices of secondary volumes, locked against other daemons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import PurePath

from common.errors import DeviceError
from common.ports import File, Files
from common.replication.session_messages import VolumeOffer
from common.storage.flush_guard import FlushGuard
from common.storage.zeroes import is_zero

READ_ALL_BYTES_MAX = 64 << 20
"""Of a device with no more data than this all of it is looked at."""

PROBE_BYTES = 1 << 20
PROBES = 64
"""Of a larger one its beginning, its end, and pieces in between: whatever uses a
device writes to one of them."""


class DeviceHoldsDataError(DeviceError):
    """The operator has to say that a device's content may be replaced."""


def open_device(
    files: Files,
    path: str,
    size_bytes: int,
    key: str,
    *,
    is_bound: bool = False,
    growing_bytes: int = 0,
    may_be_longer: bool = False,
) -> File:
    """Open a device that has to be there with this size.

    Or, once `is_bound`, with `growing_bytes`, which a growth that was cut short may
    have given it; and a block device may be larger, as it has to be before its volume
    can grow. With `may_be_longer` a file may, too: it has grown for the hosts that use
    it since a takeover. Raises `DeviceError`, `DeviceBusyError`; changes nothing.
    """
    device = files.open(path, lock=True, scattered=True)
    size = device.size()
    if size == size_bytes or (is_bound and size == growing_bytes):
        return device
    if is_bound and (device.is_block_device or may_be_longer) and size > size_bytes:
        return device
    device.close()
    raise DeviceError(
        f"{key}: device {path} has {size} bytes, but the sender's volume has "
        f"{size_bytes}; name another device, or remove the file to have it made"
    )


def open_existing_device(
    files: Files, path: str, size_bytes: int, key: str
) -> File | None:
    """Open the device as `open_device` does, or return None if it is to be made.

    A file that is one hole, and too small, counts as none: a first hello cut short
    leaves one, of no size or of what its volume had before it grew.
    """
    if not files.exists(path):
        return None
    device = files.open(path, lock=True, scattered=True)
    size = device.size()
    is_remnant = size == 0 or (
        size < size_bytes
        and not device.is_block_device
        and not _data_extents(device, size)
    )
    device.close()
    return None if is_remnant else open_device(files, path, size_bytes, key)


def holds_data(device: File) -> bool:
    """Tell whether a device holds anything but zeroes, as far as it is looked at.

    All of what is no hole, up to `READ_ALL_BYTES_MAX`; else probes, the first and the
    last megabyte among them.
    """
    size = device.size()
    extents = _data_extents(device, size)
    if sum(length for _, length in extents) <= READ_ALL_BYTES_MAX:
        places = [
            (at, min(PROBE_BYTES, start + length - at))
            for start, length in extents
            for at in range(start, start + length, PROBE_BYTES)
        ]
    else:
        last = size - PROBE_BYTES
        places = [(last * i // (PROBES - 1), PROBE_BYTES) for i in range(PROBES)]
    return any(not is_zero(device.read(*place)) for place in places)


def _data_extents(device: File, size: int) -> list[tuple[int, int]]:
    """Return (offset, length) of what is no hole; all of the rest beyond a limit."""
    found: list[tuple[int, int]] = []
    offset = 0
    while offset < size:  # ends: each turn tells of a byte at least
        for length, is_hole in device.extents(offset, size - offset):
            if not is_hole:
                found.append((offset, length))
            offset += length
        if len(found) > PROBES:
            found.append((offset, size - offset))
            break
    return found


def create_device(files: Files, path: str, size_bytes: int, guard: FlushGuard) -> File:
    """Make a sparse file; its size is durable, its name after `sync_name`."""
    device = files.open(path, create=True, lock=True, scattered=True)
    try:
        device.truncate(size_bytes)
        guard.datasync(device)
    except BaseException:
        device.close()
        raise
    return device


def sync_name(files: Files, path: str, guard: FlushGuard) -> None:
    """Make the device's name durable, also one that an earlier hello, cut short,
    has made: the record that comes after relies on it."""
    guard.sync_directory(files, str(PurePath(path).parent))


def find_devices(
    files: Files,
    paths: Mapping[str, str],
    group_key: str,
    volumes: Sequence[VolumeOffer],
    accept_existing: frozenset[str],
    undo: ExitStack,
) -> list[File | None]:
    """Open the devices that are there, None for those to be made; changes nothing.

    Raises `DeviceError` and `DeviceBusyError`, also where one can't be made.
    """
    found: list[File | None] = []
    for offer in volumes:
        key = f"{group_key}, volume {offer.name!r}"
        path = paths[offer.name]
        device = open_existing_device(files, path, offer.size_bytes, key)
        if device is not None:
            undo.callback(device.close)
            if offer.name not in accept_existing and holds_data(device):
                raise DeviceHoldsDataError(
                    f"{key}: device {path} holds data, which the first copy would "
                    "replace; if that is meant, write accept_existing = true below "
                    "its [[group.volume]] and restart farshore-remote (a primary's "
                    "config has no such key: empty the device); else name another one"
                )
        elif not files.exists(str(PurePath(path).parent)):
            raise DeviceError(
                f"{key}: device {path} can't be made, there is no "
                f"{PurePath(path).parent}; create that folder, or mend device"
            )
        found.append(device)
    return found


def make_devices(
    files: Files,
    paths: Mapping[str, str],
    group_key: str,
    volumes: Sequence[VolumeOffer],
    accept_existing: frozenset[str],
    guard: FlushGuard,
    undo: ExitStack,
) -> tuple[list[File], tuple[bool, ...]]:
    """Open what is there, then make what is not: a refusal changes nothing.

    A device that holds data is refused, unless its volume is in `accept_existing`.
    """
    found = find_devices(files, paths, group_key, volumes, accept_existing, undo)
    for device in found:
        if device is not None:
            guard.datasync(device)  # a hello cut short may have left it in memory
    devices: list[File] = []
    for offer, device in zip(volumes, found, strict=True):
        path = paths[offer.name]
        if device is None:
            device = create_device(files, path, offer.size_bytes, guard)
            undo.callback(device.close)
        sync_name(files, path, guard)
        devices.append(device)
    return devices, tuple(device is None for device in found)
