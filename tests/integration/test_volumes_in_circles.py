"""Volumes come and go at either site, as roles go round: every point stays what it was.

A host writes all the while; the devices of both sites are equal at each exchange.
"""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest

from common.errors import FarshoreError
from tests.support.changing_group import CirclingPair, fill
from tests.support.killed_steps import Step, killed_after
from tests.support.sites import Daemon, VolumeSpec, toml

KIB = 1 << 10
SIZE = 300 * KIB + 512

Wanted = dict[int, dict[str, bytes]]


async def noted(pair: CirclingPair, at: Daemon, wanted: Wanted, seed: int) -> None:
    """Write to every volume, cut, and note what the point has to be."""
    for name in pair.names(at):
        await fill(pair, name, seed, at=at)
    number, wanted[number] = await pair.point_at(at)


async def checked(pair: CirclingPair, wanted: Wanted) -> None:
    """Every point that either site keeps is what it was to be."""
    for site in (pair.primary, pair.remote):
        for number in pair.points_at(site):
            if number in wanted:
                assert await pair.served(number, site) == wanted[number], number


def made(pair: CirclingPair, name: str) -> None:
    with pair.secondary(name).open("wb") as device:
        device.truncate(SIZE)


async def added(pair: CirclingPair, at: Daemon, name: str) -> None:
    pair.add_to_configs(VolumeSpec(name, SIZE, region_bytes=128 * KIB))
    if at is pair.remote:  # whose config has no size: a device of it is there before
        made(pair, name)
    async with pair.written(at, "v"):
        await pair.change(at, "add", name)
        async with pair.written(at, name):
            await pair.joined(at)


async def removed(pair: CirclingPair, at: Daemon, name: str) -> None:
    async with pair.written(at, "v"):
        await pair.change(at, "remove", name)
    assert name not in pair.names(at)
    pair.drop_from_configs(name)


async def refused(pair: CirclingPair, at: Daemon, name: str, text: str) -> None:
    with pytest.raises(FarshoreError, match=text):
        await pair.change(at, "add", name)


async def switched(pair: CirclingPair, sending: Daemon, receiving: Daemon) -> None:
    await pair.linked(sending)
    await pair.done(sending, "switchover", "g")
    await pair.reached(receiving, "it sends", role="sending")
    names = pair.names(receiving)
    for name in names:
        assert pair.image(sending, name) == pair.image(receiving, name), name
    await pair.linked(receiving)


async def restarted(pair: CirclingPair, site: Daemon, sending: Daemon) -> None:
    await site.stop()
    await site.start()
    await pair.linked(sending)


async def names_and_devices_are_kept(pair: CirclingPair, at: Daemon) -> None:
    """What points at this site still have of a volume is given to no other one."""
    device = str(pair.secondary("a"))
    for name, path, text in (
        ("a", f"{device}.new", "is the name of a volume that was removed"),
        ("z", device, "is the device of g/a, which was removed"),
    ):
        config = tomllib.loads(pair.remote_toml())
        config["group"][0]["volume"].append({"name": name, "device": path})
        pair.remote.config_path.write_text(toml(config))
        await refused(pair, at, name, text)
    pair.write_configs()
    await refused(pair, at, "z", 'remote.toml has no .* "z" in group "g"')


async def test_volumes_come_and_go_wherever_the_group_is_sent(tmp_path: Path) -> None:
    with CirclingPair(tmp_path, [VolumeSpec("v", SIZE)]) as pair:
        home, away = pair.primary, pair.remote
        wanted: Wanted = {}
        await pair.start()
        await noted(pair, home, wanted, 1)
        await added(pair, home, "a")
        await noted(pair, home, wanted, 2)
        sent_home = set(wanted)

        await switched(pair, home, away)
        await added(pair, away, "b")
        await noted(pair, away, wanted, 3)
        await removed(pair, away, "a")
        await noted(pair, away, wanted, 4)
        await checked(pair, wanted)
        await restarted(pair, away, away)  # and home knows only what it was told
        assert pair.names(away) == ["v", "b"]
        await checked(pair, wanted)
        await names_and_devices_are_kept(pair, away)

        await switched(pair, away, home)
        await noted(pair, home, wanted, 5)
        await added(pair, home, "c")
        await removed(pair, home, "b")
        await noted(pair, home, wanted, 6)
        await checked(pair, wanted)

        home.kill()
        await pair.reached(away, "the loss is noticed", state="disconnected")
        await pair.done(away, "takeover", "g")
        await fill(pair, "c", 7, at=away)
        await home.start()
        await pair.reached(home, "it is told", state="superseded")
        told = await pair.done(home, "failback", "g")
        await pair.received(home, told["fork"])
        await added(pair, away, "d")
        await removed(pair, away, "c")
        await noted(pair, away, wanted, 8)
        await restarted(pair, home, away)  # and away goes on as it began
        await switched(pair, away, home)
        await removed(pair, home, "d")
        await noted(pair, home, wanted, 9)
        await checked(pair, wanted)
        assert len(wanted) == 8
        # All that the group's first site has sent: its other one keeps for an hour.
        assert set(pair.points_at(away)) >= {*sent_home, max(wanted)}
        fork = await pair.served(told["fork"], home)
        assert set(fork) == {"v", "c"}
        await restarted(pair, home, home)
        assert pair.names(home) == ["v"]


REMOVALS = (
    Step("fdatasync", "store"),  # where its device is; it is in the group still
    Step("fdatasync", "group.record"),
    Step("unlink", "n.changed"),
)
ADDITIONS = (
    Step("fdatasync", "n.acked"),  # room for bitmaps; nothing names it
    Step("fdatasync", "group.record"),
    Step("fdatasync", "group.record", 2),  # the session that tells of it
)
EXCHANGES = (
    Step("fdatasync", "store"),  # the store has the volumes that were sent
    Step("fdatasync", ".journal"),  # the point that is given up is being made
    Step("fdatasync", "store", 2),  # it is a receiver
)


async def killed(pair: CirclingPair, at: Daemon, step: Step, *words: str) -> None:
    """Type a command until the daemon dies at the step; then start it again."""

    async def ask() -> None:
        await pair.command(at, *words)

    async with asyncio.TaskGroup() as tasks:
        async with killed_after(at, step):
            tasks.create_task(ask())
        await at.start()


@pytest.mark.hunt
@pytest.mark.needs_root
@pytest.mark.needs_package("strace")
@pytest.mark.parametrize("turn", range(len(REMOVALS)))
async def test_who_sends_with_points_of_its_own_is_killed(
    tmp_path: Path, turn: int
) -> None:
    with CirclingPair(tmp_path, [VolumeSpec("v", SIZE), VolumeSpec("n", SIZE)]) as pair:
        home, away = pair.primary, pair.remote
        wanted: Wanted = {}
        await pair.start()
        await noted(pair, home, wanted, 1)
        await switched(pair, home, away)
        await noted(pair, away, wanted, 2)

        await killed(pair, away, REMOVALS[turn], "volume", "remove", "g/n", "--yes")
        await pair.linked(away)
        if "n" in pair.names(away):
            await fill(pair, "n", 3, at=away)  # preserved for the point of before
            await checked(pair, wanted)
            await pair.change(away, "remove", "n")
        pair.drop_from_configs("n")
        await noted(pair, away, wanted, 4)
        await checked(pair, wanted)

        pair.add_to_configs(VolumeSpec("2n", SIZE))
        made(pair, "2n")
        await killed(pair, away, ADDITIONS[turn], "volume", "add", "g/2n")
        await pair.linked(away)
        if "2n" not in pair.names(away):
            await pair.change(away, "add", "2n")
        await pair.joined(away)
        await noted(pair, away, wanted, 5)

        await killed(pair, away, EXCHANGES[turn], "switchover", "g", "--yes")
        await pair.reached(home, "it sends", role="sending")
        await pair.linked(home)
        await noted(pair, home, wanted, 6)
        await checked(pair, wanted)
        await fill(pair, "2n", 7, at=home)
        await switched(pair, home, away)
        assert pair.names(away) == ["v", "2n"]
        await checked(pair, wanted)
