"""Scrubs by schedule, and what a disk may do to one."""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Any

import pytest

from common.errors import StorageError
from common.service.scrub_status import ScrubResult
from remote_site.scrub import BUSY_SHARE, Scrub
from remote_site.scrubbing import Scrubbing
from remote_site.store import GroupStore
from tests.support.remote_store_group import (
    BINDING,
    OFFERS,
    SETTINGS,
    filled,
    make_files,
    tracks_of,
)
from tests.support.simulated_files import InlineThreads
from tests.support.virtual_time import VirtualLoop, in_virtual_time

FAST = 1 << 40
MINUTE_NS = 60 * 10**9


class ClockBeforeTheMinute:
    """The real clock, set to a moment just before a full minute."""

    def __init__(self) -> None:
        self._offset_ns = 10**4 * MINUTE_NS - 5 * 10**7 - time.time_ns()

    def now_ns(self) -> int:
        return time.time_ns() + self._offset_ns

    def monotonic(self) -> float:
        return time.monotonic()


class LoopClock:
    """The time of a loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now_ns(self) -> int:
        return int(self._loop.time() * 1e9)

    def monotonic(self) -> float:
        return self._loop.time()


async def store_with_points(**options: Any) -> GroupStore:
    store = await GroupStore.open(
        make_files(),
        InlineThreads(),
        SETTINGS,
        retain=lambda p: {p[0].number},
        **options,
    )
    await store.bind(**BINDING)
    for number in (1, 2, 3):
        for index, offer in enumerate(OFFERS):
            await store.apply(index, [tracks_of(offer, 0, filled(offer, number, 3))])
        await store.flush()
        await store.commit(
            number=number, cycle_id=bytes([number]) * 16, cut_ns=number, label=None
        )
    return store


def scrubbing_of(store: GroupStore, alarms: dict[str, str]) -> Scrubbing:
    return Scrubbing(
        "orders",
        store,
        ClockBeforeTheMinute(),
        alarms.__setitem__,
        lambda name: alarms.pop(name, None) and None,
    )


async def ended(scrubbing: Scrubbing) -> None:
    while scrubbing.last is None:
        await asyncio.sleep(0)


async def test_every_moment_of_the_schedule_starts_one() -> None:
    alarms: dict[str, str] = {}
    scrubbing = scrubbing_of(await store_with_points(), alarms)
    scrubbing.follow("* * * * *", FAST)
    await ended(scrubbing)
    assert scrubbing.last is not None
    assert scrubbing.last.result == ScrubResult.CLEAN
    assert alarms == {}
    await scrubbing.close()


def test_another_schedule_is_followed_at_once_and_none_at_no_moment() -> None:
    async def test(loop: VirtualLoop) -> None:
        store = await store_with_points()
        scrubbing = Scrubbing(
            "orders", store, LoopClock(loop), lambda *_: None, lambda *_: None
        )
        scrubbing.follow("0 0 29 2 *", FAST)
        began = loop.time()
        for _ in range(3):  # the second and third change nothing
            scrubbing.follow("* * * * *", FAST)
        while scrubbing.last is None:
            await asyncio.sleep(1)
        assert loop.time() - began <= 62, "the next full minute"
        scrubbing.follow(None, FAST)
        last = scrubbing.last
        await asyncio.sleep(3600)
        assert scrubbing.last is last
        await scrubbing.close()
        await store.close()

    in_virtual_time(test)


async def test_what_cannot_be_read_is_named_and_the_rest_is_read_all_the_same() -> None:
    store = await store_with_points()
    alarms: dict[str, str] = {}
    scrubbing = scrubbing_of(store, alarms)
    (first, second) = store.secondaries
    read = first.device.read

    def bad(offset: int, length: int) -> bytes:
        if offset <= 4096 < offset + length:
            raise StorageError("bad sector", errno=errno.EIO, file=first.device.path)
        return read(offset, length)

    first.device.read = bad  # type: ignore[method-assign]
    scrubbing.start(FAST)
    await ended(scrubbing)
    report = scrubbing.report()
    assert report is not None
    assert report.result is ScrubResult.DAMAGED
    (finding,) = report.findings
    assert finding.file == first.device.path
    assert "bad sector" in finding.reason
    assert "verify" in finding.reason
    assert report.read_bytes >= second.geometry.track_bytes * 3
    assert first.device.path in alarms["scrub_failed"]

    first.device.read = read  # type: ignore[method-assign]
    scrubbing.last = None
    scrubbing.start(FAST)
    await ended(scrubbing)
    assert scrubbing.last is not None
    assert alarms == {}
    assert not any(store.is_pinned(number) for number in (1, 2, 3))


@pytest.mark.parametrize(("is_receiving", "share"), [(True, BUSY_SHARE), (False, 1.0)])
def test_beside_a_cycle_a_scrub_reads_a_set_share_of_the_time(
    is_receiving: bool, share: float
) -> None:
    async def test(loop: VirtualLoop) -> None:
        store = await store_with_points()
        reading = 0.0
        for volume in store.secondaries:
            read = volume.device.read

            def slow(offset: int, length: int, read: Any = read) -> bytes:
                nonlocal reading
                reading += 0.01
                loop.spend(0.01)
                return bytes(read(offset, length))

            volume.device.read = slow  # type: ignore[method-assign]
        scrub = Scrub(store, FAST, LoopClock(loop), lambda: is_receiving)
        began = loop.time()
        await scrub.run()
        assert not scrub.findings
        assert reading
        assert reading == pytest.approx(share * (loop.time() - began), rel=0.01)

    in_virtual_time(test)
