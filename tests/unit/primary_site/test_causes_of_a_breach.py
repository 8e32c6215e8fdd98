"""What a forecast names as the cause is what cycles wait for: each of them made so.

The drain and the keeper are the product's; disk, processor, link and remote take the
time that a test gives them, in virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.replication.cycle_messages import Credit, Hashes, Progress, Tracks
from primary_site.autopilot import Promise
from primary_site.compression import Compression, Packed
from primary_site.drain import CycleDrain
from primary_site.drain_waits import Cause
from primary_site.rpo_keeper import Draining, Forecast, RpoKeeper
from tests.support.primary_host_site import SIZE, Site
from tests.support.told_session import CREDIT_BYTES, ToldSession
from tests.support.virtual_time import InlineThreads, VirtualLoop, in_virtual_time

TARGET = 2.0
CYCLES = 4


@dataclass(frozen=True)
class Seconds:
    """What a part takes, a frame each; of the disk, a read each."""

    disk: float = 0.001
    processor: float = 0.001
    link: float = 0.001
    remote: float = 0.001


class SlowProcessor(Compression):
    def __init__(self, loop: VirtualLoop, seconds: float) -> None:
        super().__init__("off", loop.time)
        self._loop, self._frame_seconds = loop, seconds

    def pack(self, *args: Any, **options: Any) -> Packed:
        self._loop.spend(self._frame_seconds)
        return super().pack(*args, **options)


class SlowRemote(ToldSession):
    """Takes a frame for so long, and acknowledges it so much later."""

    def __init__(self, loop: VirtualLoop, seconds: Seconds) -> None:
        super().__init__()
        self.drain: CycleDrain
        self._loop, self._seconds = loop, seconds

    async def send_bulk(self, message: Tracks | Hashes) -> int:
        self._loop.spend(self._seconds.link)
        number = message.sequence
        progress = Progress(1, message.cycle_id, ((number, number),), 1)
        self._loop.call_later(self._seconds.remote, self.drain.on_progress, progress)
        return await super().send_bulk(message)


@contextmanager
def slow_reads(site: Site, loop: VirtualLoop, seconds: float) -> Iterator[None]:
    def rule(operation: str, path: str, _: int) -> None:
        if operation == "read" and path.endswith("data.img"):
            loop.spend(seconds)

    site.files.rules.append(rule)
    try:
        yield
    finally:
        site.files.rules.remove(rule)


async def one_cycle(
    site: Site, loop: VirtualLoop, seconds: Seconds, keeper: RpoKeeper, seed: int
) -> None:
    """Write everything, cut, drain; have the keeper learn from it."""
    await site.write(0, random.Random(seed).randbytes(SIZE))
    began = loop.time()
    await site.group.make_cut(None)
    await site.group.settle_cut()
    cut = site.group.cut
    assert cut is not None
    remote = SlowRemote(loop, seconds)
    session: Any = remote
    processor = SlowProcessor(loop, seconds.processor)
    drain = remote.drain = CycleDrain(site.group, cut, session, processor)
    drain.on_credit(Credit(1, cut.cycle_id, CREDIT_BYTES))
    with slow_reads(site, loop, seconds.disk):
        await drain.run()
    keeper.cycle_ended(SIZE, SIZE, loop.time() - began, drain.waits)
    site.group.abandon_cycle()


async def forecast(loop: VirtualLoop, directory: Path, seconds: Seconds) -> Forecast:
    """Return what is foreseen once hosts write more than such cycles can take."""
    site = Site(directory, InlineThreads)
    await site.open()
    keeper = RpoKeeper(TARGET)
    for seed in range(CYCLES):
        await one_cycle(site, loop, seconds, keeper, seed)
    await site.close()
    keeper.as_of, changed = loop.time(), 0
    for _ in range(100):
        loop.spend(TARGET / 40)
        changed += SIZE
        keeper.look(loop.time(), changed, None, is_linked=True)
        assert keeper.forecast is not None
        if keeper.forecast.promise is not Promise.KEPT:
            break
    return keeper.forecast


@pytest.mark.parametrize(
    ("seconds", "cause", "words"),
    [
        (Seconds(disk=0.2), Cause.PRIMARY_DISK, "this site's disk is too slow"),
        (Seconds(processor=0.2), Cause.CPU, "this site's processor is too slow"),
        (Seconds(link=0.2), Cause.LINK, "the link is too slow"),
        (Seconds(remote=0.9), Cause.REMOTE_DISK, "the remote's disk is too slow"),
    ],
)
def test_a_breach_to_come_is_put_down_to_what_cycles_wait_for(
    tmp_path: Path, seconds: Seconds, cause: Cause, words: str
) -> None:
    async def test(loop: VirtualLoop) -> None:
        seen = await forecast(loop, tmp_path, seconds)
        assert seen.promise is Promise.IN_DANGER
        assert seen.age_seconds < TARGET, "told before it happens"
        assert seen.cause is cause
        assert words in seen.text
        needed, measured = seen.needed_bytes_per_second, seen.measured_bytes_per_second
        assert needed is not None
        assert measured is not None
        assert measured < needed

    in_virtual_time(test)


def test_the_cycle_under_way_counts_before_those_that_ended(tmp_path: Path) -> None:
    """A disk that becomes slow is named while the first slow cycle is being read."""

    async def test(loop: VirtualLoop) -> None:
        site = Site(tmp_path, InlineThreads)
        await site.open()
        keeper, slow = RpoKeeper(TARGET), RpoKeeper(TARGET)
        await one_cycle(site, loop, Seconds(link=0.2), keeper, 1)
        await one_cycle(site, loop, Seconds(disk=0.5), slow, 2)
        await site.close()
        keeper.as_of = loop.time()
        keeper.look(loop.time(), 0, None, is_linked=True)
        loop.spend(TARGET * 1.1)
        under_way = Draining(keeper.as_of, SIZE, 0.0, slow._waits)
        keeper.look(loop.time(), SIZE, under_way, is_linked=True)
        assert keeper.forecast is not None
        assert keeper.forecast.promise is Promise.BREACHED
        assert keeper.forecast.cause is Cause.PRIMARY_DISK

    in_virtual_time(test)


@pytest.mark.parametrize(
    ("needed", "measured", "why"),
    [
        (2e6, 1.5e6, "the link is too slow: 1.5 MB/s of the 2 MB/s needed"),
        (1e6, 1.5e6, "the link is too slow: 1.5 MB/s"),
        (0.0, 1.5e6, "the link is too slow: 1.5 MB/s"),
        (2e6, 0.0, "the link is too slow"),
        (None, None, "the link is too slow"),
    ],
)
def test_rates_that_are_not_known_yet_are_not_told(
    needed: float | None, measured: float | None, why: str
) -> None:
    seen = Forecast(
        TARGET, Promise.BREACHED, 3.0, 4.0, None, Cause.LINK, needed, measured
    )

    assert seen.text.endswith(f"(up to 4.0 s is expected): {why}")
