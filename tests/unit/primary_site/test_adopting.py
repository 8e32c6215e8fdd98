"""A new site in place of a lost one: devices that an adopt cut short has left."""

from __future__ import annotations

import pytest

from common.errors import StateMismatchError
from common.service.group_identity import (
    CycleIdentity,
    GroupIdentity,
    ServedIdentity,
    VolumeIdentity,
)
from primary_site.adopting import adopt
from primary_site.opening import open_group
from tests.support.adoption_explorer import SITE
from tests.support.primary_explorer import CONFIG, SIZES, STATE, TRACKS
from tests.support.simulated_files import SimulatedFiles

IDENTITY = GroupIdentity(
    group=CONFIG.name,
    primary=SITE.site.name,
    group_id="0a" * 16,
    lineage="0b" * 16,
    epoch=0,
    receipt="00" * 16,
    begun=CycleIdentity(number=9, id="0c" * 16),
    point=None,
    volumes=tuple(
        VolumeIdentity(
            name=name, id="0d" * 16, size_bytes=size, track_bytes=TRACKS[name]
        )
        for name, size in SIZES.items()
    ),
    served=ServedIdentity(
        lineage="0b" * 16,
        parent="0e" * 16,
        point=CycleIdentity(number=7, id="0f" * 16),
        cut_ns=1,
        at_ns=2,
    ),
)


def site_with(device_bytes: int | None) -> SimulatedFiles:
    """Return a site whose devices have this length; None: there are none."""
    files = SimulatedFiles()
    files.make_directory("/devices")
    files.make_directory(STATE)
    if device_bytes is not None:
        for name in SIZES:
            device = files.open(f"/devices/{name}.img", create=True)
            device.truncate(device_bytes)
            device.close()
    return files


@pytest.mark.parametrize("device_bytes", [None, 0])
def test_devices_are_made_anew_where_a_try_was_cut_short(
    device_bytes: int | None,
) -> None:
    files = site_with(device_bytes)
    adopt(files, SITE, SITE.groups[0], IDENTITY)
    opened = open_group(files, STATE, CONFIG, "primary.toml")
    assert opened.state.superseded is not None
    found = {each.name: each.device.size() for each in opened.volumes}
    assert found == SIZES


def test_a_device_that_is_another_one_s_is_left_alone() -> None:
    files = site_with(512)
    with pytest.raises(StateMismatchError, match="has 512 bytes"):
        adopt(files, SITE, SITE.groups[0], IDENTITY)
    assert files.open(f"/devices/{next(iter(SIZES))}.img").size() == 512
