"""What a start makes of a disk that lacks something: refused by name, or mended."""

from __future__ import annotations

import errno
import random

import pytest

from common.errors import DeviceError, StorageError
from common.replication.session_messages import VolumeOffer
from primary_site.opening import OpenedGroup, open_group
from remote_site.group_disk import GroupDisk, StoreSettings
from tests.faults.fault_script import PRIMARY, SIZES
from tests.support.simulated_files import SimulatedFiles
from tests.support.simulation.sites import STATE

OFFERS = tuple(
    VolumeOffer(name, bytes([number]) * 16, size, track)
    for number, (name, (size, track, _)) in enumerate(SIZES.items())
)
SETTINGS = StoreSettings(
    group="orders",
    state_directory=f"{STATE}/orders",
    journal_directory="/journal/orders",
    devices={name: f"/devices/{name}.img" for name in SIZES},
)


def bound(files: SimulatedFiles) -> GroupDisk:
    disk = GroupDisk(files, SETTINGS)
    disk.open()
    disk.bind(b"g" * 16, b"l" * 16, "amsterdam", OFFERS)
    return disk


def new_files() -> SimulatedFiles:
    files = SimulatedFiles()
    for path in ("/devices", STATE):
        files.make_directory(path)
    return files


def opened(files: SimulatedFiles) -> OpenedGroup:
    return open_group(files, STATE, PRIMARY, "primary.toml")


def test_a_device_of_a_known_group_is_not_made_anew() -> None:
    """Its file system may not be mounted: an empty one would be replicated."""
    files = new_files()
    opened(files)
    files = files.after_kill()
    files.remove("/devices/log.img")
    with pytest.raises(DeviceError, match=r"/devices/log\.img does not exist.*mount"):
        opened(files)
    assert files.list("/devices") == ["data.img"]


@pytest.mark.parametrize("fails", ["/devices", f"{STATE}/groups/orders"])
def test_names_made_by_a_first_start_cut_short_outlive_a_power_loss(fails: str) -> None:
    files = new_files()
    left = [errno.EIO]

    def inject(operation: str, path: str) -> int | None:
        is_it = (operation, path) == ("sync_directory", fails)
        return left.pop() if left and is_it else None

    files.inject = inject
    with pytest.raises(StorageError):
        opened(files)
    files = files.after_kill()
    opened(files)
    image = files.crash_image(random.Random(1), "lost")
    again = opened(image)
    assert [volume.device.size() for volume in again.volumes] == [
        volume.size_bytes for volume in PRIMARY.volumes
    ]


def test_a_secondary_device_of_a_hello_cut_short_outlives_a_power_loss() -> None:
    """Its size was in memory only: nothing had synced it."""
    files = new_files()
    left = [errno.EIO]
    files.inject = lambda operation, path: (
        left.pop()
        if left and (operation, path) == ("datasync", "/devices/log.img")
        else None
    )
    with pytest.raises(StorageError):
        bound(files)
    files = files.after_kill()
    bound(files)
    disk = GroupDisk(files.crash_image(random.Random(1), "lost"), SETTINGS)
    disk.open()
    assert [v.device.size() for v in disk.volumes] == [v.size_bytes for v in OFFERS]


@pytest.mark.parametrize("name", ["log.regions", "data.changed", "data.acked"])
def test_a_start_without_room_for_the_change_records_names_the_file(name: str) -> None:
    files = new_files()
    path = f"{STATE}/groups/orders/{name}"
    files.inject = lambda operation, at: (
        errno.ENOSPC if (operation, at) == ("allocate", path) else None
    )
    with pytest.raises(DeviceError, match=f"{path}: No space left.*make room"):
        opened(files)
    files = files.after_kill()
    opened(files)
