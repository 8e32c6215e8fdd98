"""What a start makes of a disk that lacks something: refused by name, or mended."""

from __future__ import annotations

import errno
import random

import pytest

from common.errors import DeviceError, StorageError
from primary_site.opening import OpenedGroup, open_group
from tests.faults.fault_script import PRIMARY
from tests.support.simulated_files import SimulatedFiles
from tests.support.simulation.sites import STATE


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
