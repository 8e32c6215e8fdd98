"""What the link may do to a cycle: stall, break, vanish for a while, restart.

Hosts go on writing all the time, the cycle goes on with what is missing, and
nothing is ever copied whole again. What travels is counted outside the daemons.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.endurance import Endurance
from tests.support.sites import PATIENCE_SECONDS, Pair, VolumeSpec, free_port, until
from tests.support.stamping_writers import Mix
from tests.support.tcp_proxy import TcpProxy

SEED = int(os.environ.get("FARSHORE_SEED", "1"))
MIB = 1 << 20
TRACK_BYTES = 4096
OVERHEAD_BYTES = 512 << 10
"""Headers, hellos, heartbeats, and frames that were under way at a break."""

VOLUMES = [
    VolumeSpec("big", 24 * MIB + 512, {"track_size": "4KiB"}),
    VolumeSpec("small", 5 * MIB, {"track_size": "4KiB"}),
]
MIX = Mix(hot=0.2)


@contextlib.asynccontextmanager
async def running(
    directory: Path, *, group: dict[str, object] | None = None, links: int = 1
) -> AsyncIterator[tuple[Pair, TcpProxy, Endurance]]:
    """Both sites with a proxy between them, a first copy, and hosts that write."""
    port = free_port()
    options = {"manual": True, **(group or {})}
    # Whole tracks: what travels is then known by what changed.
    link: dict[str, object] = {
        "connections": links,
        "compression": "off",
        "delta": False,
    }
    with Pair(directory, VOLUMES, group=options, link=link, link_port=port) as pair:
        proxy = TcpProxy(pair.replication_port)
        await proxy.start(port)
        try:
            await pair.start()
            endurance = Endurance(pair, SEED, writers=2, mix=MIX)
            async with endurance.under_load():
                await endurance.progress(1500)
                await endurance.check_next_cut_is_exact()
                yield pair, proxy, endurance
        finally:
            await proxy.close()


def cost_since(endurance: Endurance, event: int) -> int:
    """Return the bytes that changes since an event could cost, sent once each."""
    return endurance.changed_since(event, TRACK_BYTES) * (TRACK_BYTES + 64)


STALL_TRIES_MAX = 5


async def half_drained(
    pair: Pair, proxy: TcpProxy, endurance: Endurance, share: float = 0.4
) -> int:
    """Have a cycle stall half-way, a part of it acknowledged; return its bytes.

    A cycle of zeroes and trims costs few bytes and may be through before the stall:
    then its bytes are counted in, and the next one is tried.
    """
    total = 0
    for _ in range(STALL_TRIES_MAX):
        await endurance.rest_hosts()
        changed: int = pair.primary.group()["changed_bytes"]
        total += changed
        proxy.stall_after(int(changed * share))
        endurance.go_on_cutting()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await proxy.stalled.wait()
        await until(
            lambda most=changed: pair.primary.group()["out_of_sync_bytes"] < most,
            "acknowledgements",
        )
        if pair.primary.group()["state"] == "draining":
            break
        proxy.flow()
        await endurance.stop_cutting()
        endurance.resume_hosts()
        await endurance.progress(600)
    assert pair.primary.group()["state"] == "draining"
    endurance.resume_hosts()
    return total


async def test_a_link_that_stalls_in_a_drain_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, links=2) as (pair, proxy, endurance):
        for _ in range(3):
            await endurance.progress(300)
            since, sent = endurance.history.now(), proxy.forwarded_bytes
            changed = await half_drained(pair, proxy, endurance)
            await endurance.progress(300)
            proxy.flow()
            await endurance.check_next_cut_is_exact()
            spent = proxy.forwarded_bytes - sent
            assert spent <= changed + cost_since(endurance, since) + OVERHEAD_BYTES
        assert pair.primary.group()["link"]["state"] == "connected"


async def test_a_link_reset_in_a_drain_sends_again_only_what_was_not_acked(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, links=2) as (pair, proxy, endurance):
        for share in (0.15, 0.3, 0.5):
            # Enough for the smallest share to be more than one frame.
            await endurance.stop_cutting()
            await endurance.progress(2500)
            since, sent = endurance.history.now(), proxy.forwarded_bytes
            changed = await half_drained(pair, proxy, endurance, share)
            number = pair.primary.group()["cycle_number"]
            proxy.cut()
            await until(lambda: not pair.is_connected(), "the primary sees it")
            await endurance.progress(300)
            assert pair.primary.group()["cycle_number"] == number, "it goes on"
            await endurance.judge_newest_point()
            proxy.flow()
            await endurance.check_next_cut_is_exact()
            # What had been sent when the link broke may have to travel twice.
            again = int(changed * share)
            spent = proxy.forwarded_bytes - sent
            allowed = changed + again + cost_since(endurance, since) + OVERHEAD_BYTES
            assert spent <= allowed
        assert not pair.primary.events("cycle_abandoned")


async def test_a_link_lost_for_long_abandons_the_cycle_and_loses_nothing(
    tmp_path: Path,
) -> None:
    group: dict[str, object] = {"resume_timeout": "300ms"}
    async with running(tmp_path, group=group) as (pair, proxy, endurance):
        await endurance.progress(600)
        since, sent = endurance.history.now(), proxy.forwarded_bytes
        changed = await half_drained(pair, proxy, endurance)
        proxy.cut()
        await until(
            lambda: bool(pair.primary.events("cycle_abandoned")), "it is abandoned"
        )
        await endurance.progress(300)
        alarms = {alarm["name"] for alarm in pair.primary.group()["alarms"]}
        assert {"link_down", "cycle_abandoned"} <= alarms
        await endurance.judge_newest_point()
        proxy.flow()
        await pair.connected()
        await endurance.check_next_cut_is_exact()
        spent = proxy.forwarded_bytes - sent
        allowed = 2 * changed + cost_since(endurance, since) + OVERHEAD_BYTES
        assert spent <= allowed
        assert pair.primary.group()["alarms"] == []


async def test_a_remote_that_hangs_stalls_no_host(tmp_path: Path) -> None:
    async with running(tmp_path) as (pair, _, endurance):
        await endurance.progress(300)
        endurance.go_on_cutting()
        pair.remote.pause()
        try:
            await until(
                lambda: pair.primary.group()["state"] == "draining", "a cut is taken"
            )
            await endurance.progress(1000)
        finally:
            pair.remote.resume()
        await endurance.check_next_cut_is_exact()


async def test_a_hung_remote_is_noticed_and_left(tmp_path: Path) -> None:
    async with running(tmp_path) as (pair, _, endurance):
        endurance.go_on_cutting()
        pair.remote.pause()
        try:
            await until(lambda: not pair.is_connected(), "heartbeats are missed")
            await endurance.progress(300)
        finally:
            pair.remote.resume()
        await pair.connected()
        await endurance.check_next_cut_is_exact()


async def test_a_clean_restart_of_the_primary_copies_and_compares_nothing_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as (pair, proxy, endurance):
        endurance.go_on_cutting()
        await endurance.progress(300)
        await endurance.stop_cutting()
        for _ in range(2):
            since, sent = endurance.history.now(), proxy.forwarded_bytes
            changed = pair.primary.group()["changed_bytes"]
            before = len(endurance.cycles())
            await pair.primary.stop()
            await endurance.host_lost_primary()
            await pair.primary.start()
            await endurance.connect_writers()
            await endurance.progress(100)
            await endurance.check_next_cut_is_exact()
            assert all(cost.compared == 0 for cost in endurance.cycles()[before:])
            spent = proxy.forwarded_bytes - sent
            allowed = changed + cost_since(endurance, since) + OVERHEAD_BYTES
            assert spent <= allowed


@pytest.mark.hunt
async def test_a_clean_restart_of_the_remote_copies_nothing_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as (pair, proxy, endurance):
        await endurance.progress(300)
        since, sent = endurance.history.now(), proxy.forwarded_bytes
        changed = pair.primary.group()["changed_bytes"]
        await pair.remote.stop()
        await endurance.progress(100)
        await pair.remote.start()
        await endurance.judge_newest_point()
        await pair.connected()
        await endurance.check_next_cut_is_exact()
        spent = proxy.forwarded_bytes - sent
        assert spent <= changed + cost_since(endurance, since) + OVERHEAD_BYTES
