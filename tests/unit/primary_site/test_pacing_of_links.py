"""Which rate paces which link: profile, bandwidth, schedule, and lanes of their own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.replication.link import Link
from common.replication.session_messages import Heartbeat
from common.service.config_link import LinkTable
from primary_site.paced import Pacing

NOON_ON_MONDAY_NS = 1_704_110_400 * 10**9


class Clock:
    """Stands unless it is put."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.ns = NOON_ON_MONDAY_NS

    def monotonic(self) -> float:
        return self.seconds

    def now_ns(self) -> int:
        return self.ns


class Wire:
    """A stream that takes everything at once."""

    peer = "dr"

    async def write(self, _: object) -> None:
        return


def config(**keys: Any) -> LinkTable:
    plain = {"remotes": ["dr:1"], "peer": "dr", "allow_plaintext_replication": True}
    return LinkTable.model_validate(plain | keys)


def paced(clock: Clock, pacing: Pacing) -> Link:
    wire: Any = Wire()
    link = Link(wire, clock)  # type: ignore[arg-type]
    pacing.pace(link)
    return link


def made(**keys: Any) -> tuple[Clock, Pacing]:
    clock: Any = Clock()
    return clock, Pacing(config(**keys), clock)


def test_the_schedule_overrides_the_bandwidth_and_that_the_profile() -> None:
    clock, pacing = made(
        profile="t1",
        bandwidth="1MiB/s",
        bandwidth_schedule=["Mon 12:00-13:00 2MiB/s", "Mon 13:00-14:00 unlimited"],
    )
    assert pacing.rate == 2 << 20
    clock.ns += 3600 * 10**9
    assert pacing.rate is None
    clock.ns += 3600 * 10**9
    assert pacing.rate == 1 << 20
    pacing.apply(config(profile="t1"))
    assert pacing.rate == 193_000
    assert pacing.frame_bytes(1 << 20) == 48_250
    pacing.apply(config())
    assert pacing.rate is None


def test_links_share_a_rate_but_lanes_have_one_each() -> None:
    clock, pacing = made(profile="escon")
    first, second = paced(clock, pacing), paced(clock, pacing)
    assert first.bucket is second.bucket
    pacing.apply(config(profile="fibre-channel"))
    assert first.bucket is not second.bucket
    assert first.bucket is not None
    assert first.bucket.rate == 100_000_000
    pacing.apply(config(profile="fibre-channel", bandwidth="1MiB/s"))
    assert first.bucket is second.bucket
    assert first.bucket.rate == 1 << 20


async def test_a_heartbeat_is_not_kept_by_what_bulk_owes() -> None:
    clock, pacing = made(bandwidth="8KiB/s")
    link = paced(clock, pacing)
    assert link.bucket is not None
    link.bucket.take(1 << 20, clock.monotonic())
    waiting = asyncio.create_task(pacing.free(link))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):  # the clock stands: nobody could wait it out
        await link.send(Heartbeat(1, 2, 3))
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_bulk_that_waits_goes_on_at_once_when_the_limit_is_lifted() -> None:
    clock, pacing = made(bandwidth="8KiB/s")
    link = paced(clock, pacing)
    assert link.bucket is not None
    link.bucket.take(1 << 30, clock.monotonic())
    waiting = asyncio.create_task(pacing.free(link))
    await asyncio.sleep(0)
    pacing.apply(config())
    async with asyncio.timeout(5):
        await waiting


@pytest.mark.parametrize("profile", ["t1", "t3", "channel", "escon", "fibre-channel"])
def test_a_profile_s_window_holds_its_largest_frame(profile: str) -> None:
    _, pacing = made(profile=profile)
    assert pacing.window_bytes >= 2 << 20
