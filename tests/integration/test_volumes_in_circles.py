"""Volumes come and go at either site, as roles go round: every point stays what it was.

A host writes all the while; the devices of both sites are equal at each exchange.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.changing_group import CirclingPair, fill
from tests.support.sites import Daemon, VolumeSpec

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


async def added(pair: CirclingPair, at: Daemon, name: str) -> None:
    pair.add_to_configs(VolumeSpec(name, SIZE))
    if at is pair.remote:  # whose config has no size: a device of it is there before
        with pair.secondary(name).open("wb") as device:
            device.truncate(SIZE)
    async with pair.written(at, "v"):
        await pair.change(at, "add", name)
        async with pair.written(at, name):
            await pair.joined(at)


async def removed(pair: CirclingPair, at: Daemon, name: str) -> None:
    async with pair.written(at, "v"):
        await pair.change(at, "remove", name)
    assert name not in pair.names(at)


async def switched(pair: CirclingPair, sending: Daemon, receiving: Daemon) -> None:
    await pair.linked(sending)
    await pair.done(sending, "switchover", "g")
    await pair.reached(receiving, "it sends", role="sending")
    names = pair.names(receiving)
    for name in names:
        assert pair.image(sending, name) == pair.image(receiving, name), name
    await pair.linked(receiving)


async def restarted(pair: CirclingPair, *sites: Daemon) -> None:
    for site in sites:
        await site.stop()
        await site.start()
    await pair.linked(sites[0])


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
        await restarted(pair, away, home)
        assert pair.names(away) == ["v", "b"]
        await checked(pair, wanted)

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
        await restarted(pair, home, away)
        await switched(pair, away, home)
        await removed(pair, home, "d")
        await noted(pair, home, wanted, 9)
        await checked(pair, wanted)
        assert len(wanted) == 8
        # All that the group's first site has sent: its other one keeps for an hour.
        assert set(pair.points_at(away)) >= {*sent_home, max(wanted)}
        fork = await pair.served(told["fork"], home)
        assert set(fork) == {"v", "c"}
