"""What lies on disk of a volume that is added to a group, or was removed. All blocking.

Nothing of it counts before the group's record names the volume.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress

from common.errors import StorageError
from common.ports import Files
from common.service.config_primary import PrimaryGroup, PrimaryVolume
from common.storage.geometry import Geometry
from primary_site.opening import OpenedVolume, new_geometry, open_volume
from primary_site.volume_devices import create_device, find_device, make_names_durable

STATE_SUFFIXES = (".regions", ".changed", ".acked")


def look_at_device(
    files: Files, config: PrimaryGroup, volume: PrimaryVolume, config_path: str
) -> Geometry:
    """Return the geometry of a volume that is to be added; changes nothing.

    Raises `DeviceError` or `DeviceBusyError` where its device won't do.
    """
    device = find_device(files, volume, config, config_path, None)
    size_bytes = volume.size_bytes or 0
    if device is not None:
        size_bytes = device.size()
        device.close()
    return new_geometry(size_bytes, volume)


def open_added(
    files: Files,
    directory: str,
    config: PrimaryGroup,
    volume: PrimaryVolume,
    config_path: str,
) -> OpenedVolume:
    """Open or make all that a volume needs, before the record names it.

    Order: what an earlier volume of this name has left goes; the device, its size and
    its name; region log and bitmaps with all their room; their names, and with them
    that of what went. The caller records the volume only then. The crashes it defends
    against: a record that names a volume whose changes nothing can remember; bitmaps,
    or hot regions, of another volume that had its name.
    """
    remove_leavings(files, directory, volume.name)
    with ExitStack() as undo:
        device = find_device(files, volume, config, config_path, None)
        if device is None:
            size_bytes = volume.size_bytes
            assert size_bytes is not None, "checked"
            device = create_device(files, volume.device, size_bytes)
        undo.callback(device.close)
        make_names_durable(files, [volume])
        geometry = new_geometry(device.size(), volume)
        opened = open_volume(
            files,
            directory,
            volume.name,
            geometry,
            device,
            None,
            is_seeded=config.link.seed == "checksum",
        )
        undo.pop_all()
    return opened


def remove_leavings(files: Files, directory: str, name: str) -> None:
    """Delete what is kept of a volume that the record does not name.

    Not durably: what comes back is deleted before the next volume of that name.
    """
    for suffix in STATE_SUFFIXES:
        path = f"{directory}/{name}{suffix}"
        if files.exists(path):
            files.remove(path)


def close_opened(opened: OpenedVolume) -> None:
    """Let go of a volume that does not come after all."""
    opened.durable.close()
    opened.device.close()


def remove_targets(files: Files, directory: str, name: str) -> None:
    """Delete the FlashCopy targets of a removed volume; what can't be deleted stays."""
    for side in (0, 1):
        path = f"{directory}/{name}.{side}.target"
        with suppress(StorageError):
            if files.exists(path):
                files.remove(path)
