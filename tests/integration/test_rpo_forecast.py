"""A target for the recovery point's age that can't be kept: told before, and why.

The link is made too slow or cut, the remote's disk made slow; the alarm names the
right cause each time, and all is well again once the trouble ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty_disk import FaultyDisk, Slow
from tests.support.sites import Pair, VolumeSpec, free_port, until
from tests.support.tcp_proxy import TcpProxy

MIB = 1 << 20
SIZE_BYTES = 32 * MIB
BLOCK_BYTES = 16 << 10
TARGET = "2s"
LOAD_BYTES_PER_SECOND = 4e6
ALARMS = {"rpo_breach_forecast", "rpo_breached"}


class Watched:
    """A pair with a proxy on its link, and a host that writes at a steady rate."""

    def __init__(self, pair: Pair, proxy: TcpProxy) -> None:
        self.pair = pair
        self.proxy = proxy

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        client = await self.pair.primary.nbd("g/v")
        chance = random.Random(1)

        async def write() -> None:
            while True:
                offset = chance.randrange(SIZE_BYTES // BLOCK_BYTES) * BLOCK_BYTES
                await client.write(offset, chance.randbytes(BLOCK_BYTES))
                await asyncio.sleep(BLOCK_BYTES / LOAD_BYTES_PER_SECOND)

        writing = asyncio.create_task(write())
        try:
            yield
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            client.abort()

    def forecast(self) -> dict[str, Any]:
        return dict(self.pair.primary.group()["forecast"] or {})

    def alarms(self) -> set[str]:
        return {alarm["name"] for alarm in self.pair.primary.group()["alarms"]}

    async def is_kept(self) -> None:
        await until(
            lambda: (
                self.forecast().get("promise") == "kept" and not self.alarms() & ALARMS
            ),
            "the target is kept",
        )

    async def has_cycles(self) -> None:
        """Wait until cycles of the load have told how fast the link is."""
        last = self.pair.primary.group()["last_cycle"]["number"]
        await until(
            lambda: self.pair.primary.group()["last_cycle"]["number"] >= last + 3,
            "cycles",
        )

    async def is_told(self, cause: str) -> dict[str, Any]:
        """Wait until a breach, or one to come, is put down to `cause`."""
        await until(
            lambda: self.forecast().get("cause") == cause, f"the cause is {cause}"
        )
        seen = self.forecast()
        assert seen["promise"] in {"in_danger", "breached"}
        return seen

    def is_short_of_rate(self) -> bool:
        seen = self.forecast()
        needed, measured = (
            seen[f"{what}_bytes_per_second"] for what in ("needed", "measured")
        )
        return needed is not None and measured is not None and measured < needed

    async def is_breached(self) -> None:
        await until(lambda: "rpo_breached" in self.alarms(), "the target is breached")

    def is_forecast_first(self) -> bool:
        """Tell whether the log has the forecast before the breach."""
        names = [e["event"] for e in self.pair.primary.events()]
        told = [name for name in names if name in ALARMS]
        return told[:2] == ["rpo_breach_forecast", "rpo_breached"]


@contextlib.asynccontextmanager
async def watched(directory: Path) -> AsyncIterator[Watched]:
    port = free_port()
    with Pair(
        directory,
        [VolumeSpec("v", SIZE_BYTES, {"track_size": "4KiB"})],
        group={"rpo": TARGET},
        link={"compression": "off"},
        link_port=port,
    ) as pair:
        proxy = TcpProxy(pair.replication_port, takes_little=True)
        await proxy.start(port)
        try:
            await pair.start()
            yield Watched(pair, proxy)
        finally:
            await proxy.close()


async def test_a_link_too_slow_is_forecast_and_named(tmp_path: Path) -> None:
    async with watched(tmp_path) as site, site.load():
        await site.is_kept()
        await site.has_cycles()
        site.proxy.throttle(LOAD_BYTES_PER_SECOND / 10)
        seen = await site.is_told("link")
        assert seen["expected_age_seconds"] > 2
        await until(site.is_short_of_rate, "the link is found to be too slow")
        await site.is_breached()
        messages = {a["message"] for a in site.pair.primary.group()["alarms"]}
        assert any("the link is too slow" in message for message in messages)
        site.proxy.throttle(None)
        await site.is_kept()
        assert len(site.pair.primary.events("rpo_breached")) == 1, "told once"
        assert site.pair.primary.events("rpo_breached_ended")


@pytest.mark.hunt
async def test_a_link_that_is_down_is_named_before_the_point_is_too_old(
    tmp_path: Path,
) -> None:
    async with watched(tmp_path) as site, site.load():
        await site.is_kept()
        site.proxy.cut()
        await site.is_told("link_down")
        await site.is_breached()
        assert site.is_forecast_first()
        site.proxy.flow()
        await site.is_kept()


@pytest.mark.needs_root
@pytest.mark.needs_package("fusermount3")
@pytest.mark.hunt
async def test_a_remote_whose_disk_is_slow_is_named(tmp_path: Path) -> None:
    with FaultyDisk(tmp_path / "disk") as disk:
        slow = Slow("v.remote.img", 0)
        disk.rules.append(slow)
        (tmp_path / "v.remote.img").symlink_to(disk.path / "v.remote.img")
        async with watched(tmp_path) as site:
            async with site.load():
                await site.is_kept()
                slow.seconds = 0.05
                await site.is_told("remote_disk")
                await site.is_breached()
                slow.seconds = 0
                await site.is_kept()
            await site.pair.remote.stop()


@pytest.mark.needs_root
@pytest.mark.needs_package("fusermount3")
@pytest.mark.hunt
async def test_a_primary_whose_disk_is_slow_to_read_is_named(tmp_path: Path) -> None:
    """Hosts that write feel little of it; cycles, which read at the cut, do."""
    with FaultyDisk(tmp_path / "disk") as disk:
        slow = Slow("v.img", 0, ("read",))
        disk.rules.append(slow)
        (tmp_path / "v.img").symlink_to(disk.path / "v.img")
        async with watched(tmp_path) as site:
            async with site.load():
                await site.is_kept()
                await site.has_cycles()
                slow.seconds = 0.05
                await site.is_told("primary_disk")
                await site.is_breached()
                slow.seconds = 0
                await site.is_kept()
            await site.pair.primary.stop()


async def test_an_idle_group_is_kept_current_without_cuts(tmp_path: Path) -> None:
    async with watched(tmp_path) as site:
        await site.is_kept()
        group = site.pair.primary.group()
        cycle, before = group["cycle_number"], group["recovery_point"]["current_as_of"]

        def current() -> str:
            return str(site.pair.primary.group()["recovery_point"]["current_as_of"])

        for _ in range(2):
            await until(lambda since=before: current() > since, "it is current again")
            before = current()
        assert site.pair.primary.group()["cycle_number"] == cycle
