"""kill -9 of either site between two steps as a volume comes to a group, or leaves it.

After each: the volume is in the group or it is not; what was asked can be asked again;
points of before have the volumes and the bytes that they had; and the next point is
what the group's volumes hold then.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from common.errors import FarshoreError
from tests.support.changing_group import KeepingPair, fill
from tests.support.killed_steps import Step, killed_after
from tests.support.sites import Daemon, VolumeSpec, until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_package("strace")]

KIB = 1 << 10
SIZE = 700 * KIB + 512

PRIMARY_ADDS = (
    Step("fdatasync", "n.img"),  # the device is made
    Step("fdatasync", "n.acked"),  # room for bitmaps
    Step("fdatasync", "group.record"),  # the volume is recorded, and not served yet
    Step("fdatasync", "group.record", 2),  # the session that tells of it
)
PRIMARY_REMOVALS = (
    Step("fdatasync", "group.record"),
    Step("unlink", "n.changed"),
    Step("fdatasync", "group.record", 2),
)
REMOTE_ADDS = (
    Step("fdatasync", "n.remote.img"),  # the device is made
    Step("fdatasync", "store"),  # the volume is recorded as joining
    Step("fdatasync", ".journal"),  # the first point with it is being made
)
REMOTE_REMOVALS = (Step("fdatasync", "store"), Step("fdatasync", "store", 2))


async def ask(pair: KeepingPair, action: str, name: str) -> None:
    """Add or remove a volume, then cut; a daemon may die of it."""
    with contextlib.suppress(FarshoreError, AssertionError):
        await asyncio.to_thread(pair.volume, action, name)
        await pair.cut()


def volumes(pair: KeepingPair) -> list[str]:
    return [volume["name"] for volume in pair.group("g")["volumes"]]


async def killed(
    pair: KeepingPair, daemon: Daemon, step: Step, action: str, name: str
) -> None:
    """Ask until the daemon dies at the step, then start it again."""
    async with asyncio.TaskGroup() as tasks:
        async with killed_after(daemon, step):
            tasks.create_task(ask(pair, action, name))
        await daemon.start()
    await pair.connected()


async def has_ended(pair: KeepingPair, action: str, name: str) -> None:
    """Ask again, if it has not been done; the next point is as it should be."""
    if (name in volumes(pair)) != (action == "add"):
        await asyncio.to_thread(pair.volume, action, name)
        await pair.connected()
    assert (name in volumes(pair)) == (action == "add")


@pytest.mark.hunt
@pytest.mark.parametrize(
    ("role", "adds", "removals"),
    [
        pytest.param("primary", PRIMARY_ADDS, PRIMARY_REMOVALS, id="primary"),
        pytest.param("remote", REMOTE_ADDS, REMOTE_REMOVALS, id="remote"),
    ],
)
async def test_a_site_killed_as_volumes_come_and_go(
    tmp_path: Path, role: str, adds: tuple[Step, ...], removals: tuple[Step, ...]
) -> None:
    with KeepingPair(tmp_path, [VolumeSpec("v", SIZE)]) as pair:
        await pair.start()
        daemon = pair.primary if role == "primary" else pair.remote
        wanted: dict[int, dict[str, bytes]] = {}
        await fill(pair, "v", 0)
        number, wanted[number] = await pair.point()
        seed = 0
        for turn in range(max(len(adds), len(removals))):
            name = f"{turn}n"  # a name is free again with the last point that has it
            pair.add_to_configs(VolumeSpec(name, SIZE))
            for action, steps in (("add", adds), ("remove", removals)):
                seed += 1
                await fill(pair, "v", seed)
                if turn < len(steps):
                    await killed(pair, daemon, steps[turn], action, name)
                await has_ended(pair, action, name)
                if action == "add":
                    await fill(pair, name, seed)
                number, wanted[number] = await pair.point()
                assert (name in wanted[number]) == (action == "add")
        for number, images in wanted.items():
            assert await pair.served(number) == images, number
        await until(lambda: not pair.group("g")["alarms"], "nothing is wrong")
