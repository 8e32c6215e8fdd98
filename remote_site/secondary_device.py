"""Open or make the devices of secondary volumes, locked against other daemons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import PurePath

from common.errors import DeviceError
from common.ports import File, Files
from common.replication.messages import VolumeOffer
from common.storage.flush_guard import FlushGuard


def open_device(files: Files, path: str, size_bytes: int, key: str) -> File:
    """Open a device that has to be there with this size.

    Raises `DeviceError`, `DeviceBusyError`; changes nothing.
    """
    device = files.open(path, lock=True, scattered=True)
    size = device.size()
    if size == size_bytes:
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

    An empty file counts as none: a first hello cut short leaves one.
    """
    if not files.exists(path):
        return None
    device = files.open(path, lock=True, scattered=True)
    is_empty = device.size() == 0
    device.close()
    return None if is_empty else open_device(files, path, size_bytes, key)


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


def make_devices(
    files: Files,
    paths: Mapping[str, str],
    group_key: str,
    volumes: Sequence[VolumeOffer],
    guard: FlushGuard,
    undo: ExitStack,
) -> tuple[list[File], tuple[bool, ...]]:
    """Open what is there, then make what is not: a refusal changes nothing."""
    found: list[File | None] = []
    for offer in volumes:
        key = f"{group_key}, volume {offer.name!r}"
        path = paths[offer.name]
        device = open_existing_device(files, path, offer.size_bytes, key)
        if device is not None:
            undo.callback(device.close)
            guard.datasync(device)  # a hello cut short may have left it in memory
        found.append(device)
    devices: list[File] = []
    for offer, device in zip(volumes, found, strict=True):
        path = paths[offer.name]
        if device is None:
            device = create_device(files, path, offer.size_bytes, guard)
            undo.callback(device.close)
        sync_name(files, path, guard)
        devices.append(device)
    return devices, tuple(device is None for device in found)
