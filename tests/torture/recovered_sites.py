"""The product's own recovery on files that a power loss left, and what it found.

Each function opens what the daemon opens, in its order, and closes it again, so
that the file system below can be unmounted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from common.ports import File
from common.service.config import load_primary, load_remote
from common.service.site_record import open_state_directory
from common.storage.bitmap import Bitmap
from common.storage.files import SystemFiles
from primary_site.opening import open_group
from remote_site.group_disk import GroupDisk, StoreSettings
from remote_site.recovery_point import PointImage

Prints = NDArray[np.uint64]
"""A hash of each track of a volume."""


def fingerprint(image: bytes | bytearray, track_bytes: int) -> Prints:
    view = memoryview(image)
    return np.array(
        [
            xxhash.xxh3_64_intdigest(view[at : at + track_bytes])
            for at in range(0, len(image), track_bytes)
        ],
        dtype=np.uint64,
    )


@dataclass
class RecoveredPrimary:
    """A primary right after its start-up recovery."""

    images: list[bytes]
    carried: list[NDArray[np.bool_]]
    """Tracks that the next cycle sends or compares, a volume an array."""
    committed_number: int | None
    """The newest point that its record names."""


@dataclass
class RecoveredRemote:
    """A remote right after its start-up recovery."""

    number: int | None
    """Of the newest point; None before the first."""
    images: list[bytes]
    """That point, volumes in the order asked for."""


def recover_primary(config_path: str) -> RecoveredPrimary:
    """Raises what the daemon would refuse to start with."""
    config = load_primary(config_path)
    (group,) = config.groups
    directory = config.site.state_directory
    files = SystemFiles()
    with contextlib.ExitStack() as closing:
        site = open_state_directory(files, directory, "primary", config.site.name)
        closing.callback(site.lock.close)
        opened = open_group(files, directory, group, config_path)
        images, carried = [], []
        for volume in opened.volumes:
            for each in (
                volume.device,
                volume.durable.changed,
                volume.durable.acked,
                volume.durable.log,
            ):
                closing.callback(each.close)
            images.append(_whole(volume.device, volume.geometry.size_bytes))
            carried.append(_bits(volume.verdict.carried))
        return RecoveredPrimary(images, carried, opened.state.committed_number)


def recover_remote(config_path: str, volumes: Sequence[str]) -> RecoveredRemote:
    """Raises what the daemon would refuse to start with."""
    config = load_remote(config_path)
    (group,) = config.groups
    files = SystemFiles()
    with contextlib.ExitStack() as closing:
        directory = config.site.state_directory
        site = open_state_directory(files, directory, "remote", config.site.name)
        closing.callback(site.lock.close)
        disk = GroupDisk(
            files,
            StoreSettings(
                group=group.name,
                state_directory=f"{directory}/groups/{group.name}",
                journal_directory=f"{group.journal.directory}/{group.name}",
                devices={volume.name: volume.device for volume in group.volumes},
                peer=group.peer,
            ),
        )
        disk.open()
        closing.callback(disk.close)
        if not disk.points:
            return RecoveredRemote(None, [])
        newest = disk.points[-1].number
        by_name = {volume.offer.name: volume for volume in disk.volumes}
        images = []
        for name in volumes:
            volume = by_name[name]
            image = PointImage(volume, newest)
            images.append(bytes(image.read(0, volume.offer.size_bytes)))
        return RecoveredRemote(newest, images)


def _whole(device: File, size_bytes: int) -> bytes:
    return bytes(device.read(0, size_bytes))


def _bits(bitmap: Bitmap) -> NDArray[np.bool_]:
    raw = np.frombuffer(bytes(bitmap.data), np.uint8)
    return np.unpackbits(raw, bitorder="little")[: bitmap.bit_count].astype(np.bool_)
