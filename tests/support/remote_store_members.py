"""A group's store whose volumes come and go, and what its points hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.replication.session_messages import VolumeOffer
from remote_site.applier import apply_tracks
from remote_site.group_disk import GroupDisk, StoreSettings
from remote_site.recovery_point import PointGoneError, PointImage
from remote_site.store_state import Point
from tests.support.remote_store_group import SETTINGS, filled, tracks_of
from tests.support.simulated_files import SimulatedFiles

LATER = VolumeOffer("later", b"n" * 16, 6 * 4096, 4096)
LATER_PATH = "/devices/later.img"
WITH_LATER = replace(SETTINGS, devices={**SETTINGS.devices, "later": LATER_PATH})

Wanted = dict[int, dict[str, bytes]]


def keep_all(points: Sequence[Point]) -> set[int]:
    return {point.number for point in points}


def opened(files: SimulatedFiles, settings: StoreSettings = WITH_LATER) -> GroupDisk:
    disk = GroupDisk(files, settings, keep_all)
    disk.open()
    return disk


def contents(disk: GroupDisk, number: int) -> dict[str, bytes]:
    """Return what each volume holds at a point that has it."""
    found = {}
    for volume in disk.volumes:
        try:
            image = PointImage(volume, number)
        except PointGoneError:
            continue
        found[volume.offer.name] = bytes(image.read(0, image.geometry.size_bytes))
    return found


def volume_of(disk: GroupDisk, name: str) -> int:
    return [volume.offer.name for volume in disk.volumes].index(name)


def cycle(
    disk: GroupDisk, number: int, tracks: dict[str, range], *partial: str
) -> None:
    """Apply these tracks of volumes, filled with the cycle's number; commit."""
    for name, written in tracks.items():
        volume = disk.volumes[volume_of(disk, name)]
        data = filled(volume.offer, number, len(written))
        apply_tracks(volume, [tracks_of(volume.offer, written.start, data)])
    whole = frozenset(
        index
        for index, volume in enumerate(disk.volumes)
        if volume.offer.name in tracks and volume.offer.name not in partial
    )
    disk.commit_point(number, bytes([number]) * 16, number, None, whole=whole)


def check(disk: GroupDisk, wanted: Wanted) -> None:
    assert disk.state is not None
    for point in disk.points:
        assert contents(disk, point.number) == wanted[point.number]
        named = {
            offer.name
            for index, offer in enumerate(disk.state.volumes)
            if disk.state.has(point.number, index)
        }
        assert named == set(wanted[point.number])
