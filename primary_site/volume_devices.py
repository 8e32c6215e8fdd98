"""The devices of volumes at a start: found, checked, or made. All blocking."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import DeviceError, StorageError
from common.ports import File, Files
from common.service.config_primary import PrimaryGroup, PrimaryVolume
from common.storage.geometry import SECTOR_BYTES
from primary_site.group_state import VolumeState
from primary_site.growth_opening import check_known_device


def find_device(
    files: Files,
    volume: PrimaryVolume,
    config: PrimaryGroup,
    config_path: str,
    saved: VolumeState | None,
) -> File | None:
    """Open and check a device; None if it is yet to be created.

    Of a group that never ran an empty file counts as none, where `size` is given: a
    first start cut short leaves one. Of a group that ran none is ever made: an empty
    device in the place of one that is not mounted would be replicated.
    """
    key = f"{config_path}: group {config.name!r}, volume {volume.name!r}"
    if files.exists(volume.device):
        device = files.open(volume.device, lock=True, scattered=True)
        try:
            if saved is not None:
                check_known_device(device, volume.size_bytes, saved, key)
            elif device.size() == 0 and volume.size_bytes is not None:
                device.close()
                return None
            else:
                _check_new_device(device, volume.size_bytes, key)
        except BaseException:
            device.close()
            raise
        return device
    if saved is not None:
        raise DeviceError(
            f"{key}: device {volume.device} does not exist, but the "
            "state directory knows it; mount or restore it"
        )
    if volume.size_bytes is None:
        raise DeviceError(
            f"{key}: device {volume.device} does not exist; create "
            "it, or give size to have a sparse file made (a remote's config has no "
            "such key: truncate -s makes one)"
        )
    folder = volume.device.rpartition("/")[0] or "/"
    if not files.exists(folder):
        raise DeviceError(
            f"{key}: device {volume.device} can't be made, there is no "
            f"{folder}; create that folder, or mend device"
        )
    return None


def _check_new_device(device: File, size_bytes: int | None, key: str) -> None:
    size = device.size()
    if size_bytes is not None and size != size_bytes:
        raise DeviceError(
            f"{key}: size is {size_bytes} bytes, but device {device.path} has {size}; "
            "mend size, or leave it out"
        )
    if size == 0 or size % SECTOR_BYTES:
        raise DeviceError(
            f"{key}: device {device.path} has {size} bytes; it must be a multiple of "
            "512, and not empty"
        )


def create_device(files: Files, path: str, size_bytes: int) -> File:
    """Create a sparse file of a durable size; its name is durable later."""
    device = files.open(path, create=True, lock=True, scattered=True)
    try:
        device.truncate(size_bytes)
        device.datasync()
    except StorageError as error:
        device.close()
        files.remove(path)
        raise DeviceError(
            f"{error}: a file of {size_bytes} bytes cannot be made there; lower size, "
            "or name a device on another file system"
        ) from error
    return device


def make_names_durable(files: Files, volumes: Sequence[PrimaryVolume]) -> None:
    """Make the names of devices durable that this daemon may have made.

    Also of those that are there: a first start cut short may have made them.
    """
    paths = [volume.device for volume in volumes if volume.size_bytes]
    for folder in sorted({path.rpartition("/")[0] or "/" for path in paths}):
        files.sync_directory(folder)
