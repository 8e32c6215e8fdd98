"""A session of several links: any of them may die, over and over, and it lives on."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from tests.integration.test_link import running
from tests.support.endurance import Endurance
from tests.support.sites import Pair, until
from tests.support.tcp_proxy import TcpProxy

LINKS = 3
DEATHS = 12


async def all_joined(pair: Pair, proxy: TcpProxy) -> None:
    await until(
        lambda: (
            proxy.connection_count == LINKS
            and [peer["state"] for peer in pair.primary.group()["link"]["peers"]]
            == LINKS * ["connected"]
        ),
        "all links are there",
    )


async def kill_links(
    pair: Pair, proxy: TcpProxy, endurance: Endurance, which: list[int]
) -> None:
    """Reset one link after the other, each in the middle of a drain."""
    for deaths, index in enumerate(which, start=1):
        await all_joined(pair, proxy)
        await endurance.progress(60)
        passed = proxy.forwarded_bytes
        await until(
            lambda passed=passed: proxy.forwarded_bytes > passed + (64 << 10),
            "tracks are on their way",
        )
        proxy.reset_one(index)
        await until(
            lambda deaths=deaths: len(pair.primary.events("link_died")) >= deaths,
            "the primary sees it",
        )


async def test_links_that_die_one_by_one_end_no_session(tmp_path: Path) -> None:
    rng = random.Random(5)
    group: dict[str, object] = {"interval": "100ms", "manual": False}
    async with running(tmp_path, group=group, links=LINKS) as (pair, proxy, endurance):
        before = pair.primary.group()["recovery_point"]["number"]
        # The oldest is the control link: half of the deaths are its own.
        which = [rng.choice((0, 0, 1, 2)) for _ in range(DEATHS)]
        assert 0 in which
        await kill_links(pair, proxy, endurance, which)
        await all_joined(pair, proxy)
        await endurance.check_next_cut_is_exact()
        assert pair.primary.group()["recovery_point"]["number"] > before
        assert len(pair.primary.events("link_died")) >= DEATHS
        assert len(pair.remote.events("session_opened")) == 1
        assert not pair.primary.events("cycle_abandoned")


async def test_a_drain_goes_on_while_a_link_of_it_is_dead(tmp_path: Path) -> None:
    """Frames that went down with a link travel over the others."""
    async with running(tmp_path, links=LINKS) as (pair, proxy, endurance):
        await all_joined(pair, proxy)
        await endurance.progress(2000)
        await endurance.rest_hosts()
        proxy.stall_after(pair.primary.group()["changed_bytes"] // 3)
        endurance.go_on_cutting()
        async with asyncio.timeout(30):
            await proxy.stalled.wait()
        proxy.reset_one(0)
        proxy.flow()
        await endurance.check_next_cut_is_exact()
        assert len(pair.remote.events("session_opened")) == 1


async def test_all_links_dead_at_once_end_the_session_and_the_next_goes_on(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, links=LINKS) as (pair, proxy, endurance):
        await all_joined(pair, proxy)
        endurance.go_on_cutting()
        await endurance.progress(300)
        proxy.cut()
        await until(lambda: not pair.is_connected(), "the primary sees it")
        await endurance.progress(100)
        proxy.flow()
        await pair.connected()
        await endurance.check_next_cut_is_exact()
        assert len(pair.remote.events("session_opened")) > 1
        await all_joined(pair, proxy)
