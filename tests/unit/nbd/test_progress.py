"""Who is stuck, and who is only slow, idle or waiting for us."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from common.nbd.progress import (
    PROGRESS_BYTES_MIN,
    Position,
    ProgressWatch,
    Stall,
    Underway,
)

NOTHING = Underway(None, None)


class TestStall:
    def test_what_stands_still_is_stuck_after_so_many_checks(self) -> None:
        stall = Stall(3)
        here = Position(7, 100)
        assert [stall.is_stuck(here) for _ in range(4)] == [False, False, False, True]

    def test_a_byte_now_and_then_is_no_progress(self) -> None:
        stall = Stall(3)
        told = [stall.is_stuck(Position(7, 100 + n)) for n in range(4)]
        assert told == [False, False, False, True]

    def test_slow_steps_add_up_to_progress(self) -> None:
        stall = Stall(3)
        step = PROGRESS_BYTES_MIN // 2
        assert not any(stall.is_stuck(Position(7, step * n)) for n in range(50))

    def test_the_next_item_is_progress(self) -> None:
        stall = Stall(1)
        assert not any(stall.is_stuck(Position(n, 5)) for n in range(50))

    def test_an_item_that_starts_anew_has_all_its_time_again(self) -> None:
        stall = Stall(2)
        assert not stall.is_stuck(Position(1, 0))
        assert not stall.is_stuck(Position(1, 0))
        assert not stall.is_stuck(None)
        assert not stall.is_stuck(Position(1, 0))
        assert not stall.is_stuck(Position(1, 0))
        assert stall.is_stuck(Position(1, 0))


class VirtualLoop:
    """Timers alone, run by hand in their order; nothing waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None], VirtualTimer]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> VirtualTimer:
        timer = VirtualTimer()
        self.timers.append((self.now + delay, callback, timer))
        return timer

    def advance(self, seconds: float) -> None:
        stop = self.now + seconds
        while due := [t for t in self.timers if t[0] <= stop]:
            first = min(due, key=lambda t: t[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            if not first[2].cancelled:
                first[1]()
        self.now = stop


class VirtualTimer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Watched:
    """A watch on what a test says is under way."""

    def __init__(self, receive_seconds: float = 30, reply_seconds: float = 60) -> None:
        self.loop: Any = VirtualLoop()
        self.underway = NOTHING
        self.looks = 0
        self.reasons: list[str] = []
        self.watch = ProgressWatch(
            self.loop, receive_seconds, reply_seconds, self.look, self.reasons.append
        )

    def look(self) -> Underway:
        self.looks += 1
        return self.underway


class TestProgressWatch:
    @pytest.mark.parametrize(
        ("underway", "seconds", "reason"),
        [
            (Underway(Position(0, 9), None), 30, "a request .* 30 seconds"),
            (Underway(None, Position(0, 9)), 60, "a reader .* 60 seconds"),
            (Underway(Position(0, 9), Position(0, 9)), 30, "a request"),
        ],
    )
    def test_a_client_has_its_time_and_hardly_more(
        self, underway: Underway, seconds: float, reason: str
    ) -> None:
        watched = Watched()
        watched.underway = underway
        watched.watch.arm()
        watched.loop.advance(seconds - 0.001)
        assert watched.reasons == []
        watched.loop.advance(seconds / 4 + 0.002)
        (told,) = watched.reasons
        assert re.match(reason, told)

    @pytest.mark.parametrize(("receive", "reply"), [(30, 60), (60, 30), (7, 100)])
    @pytest.mark.parametrize("is_reply", [False, True])
    def test_each_time_is_its_own(
        self, receive: float, reply: float, is_reply: bool
    ) -> None:
        watched = Watched(receive, reply)
        here, seconds = Position(0, 0), receive
        watched.underway = Underway(here, None)
        if is_reply:
            watched.underway, seconds = Underway(None, here), reply
        watched.watch.arm()
        watched.loop.advance(seconds - 0.001)
        assert watched.reasons == []
        watched.loop.advance(seconds / 4 + 0.002)
        assert len(watched.reasons) == 1

    def test_it_is_told_once_and_nothing_is_checked_after(self) -> None:
        watched = Watched()
        watched.underway = Underway(Position(0, 0), Position(0, 0))
        watched.watch.arm()
        watched.loop.advance(1000)
        watched.watch.arm()
        watched.loop.advance(1000)
        assert len(watched.reasons) == 1
        assert watched.loop.timers == []

    def test_with_nothing_under_way_there_is_no_timer(self) -> None:
        watched = Watched()
        watched.underway = Underway(Position(0, 0), None)
        watched.watch.arm()
        assert watched.watch.is_armed
        watched.underway = NOTHING
        watched.loop.advance(30)
        assert not watched.watch.is_armed
        looks = watched.looks
        watched.loop.advance(1000)
        assert watched.looks == looks
        assert watched.reasons == []

    def test_to_arm_an_armed_watch_does_nothing(self) -> None:
        watched = Watched()
        watched.underway = Underway(Position(0, 0), None)
        for _ in range(100):
            watched.watch.arm()
        assert watched.looks == 1
        assert len(watched.loop.timers) == 1

    def test_a_stopped_watch_stays_silent(self) -> None:
        watched = Watched()
        watched.underway = Underway(Position(0, 0), None)
        watched.watch.arm()
        watched.watch.stop()
        watched.watch.arm()
        watched.loop.advance(1000)
        assert watched.looks == 1
        assert watched.reasons == []

    def test_a_loop_that_was_held_up_is_not_held_against_the_client(self) -> None:
        watched = Watched()
        watched.underway = Underway(Position(0, 0), None)
        watched.watch.arm()
        # All due timers run late, at one moment: the check runs but once.
        watched.loop.now += 1000
        watched.loop.advance(0)
        assert watched.reasons == []
        watched.loop.advance(30)
        assert len(watched.reasons) == 1

    async def test_it_runs_on_a_real_loop(self) -> None:
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        watch = ProgressWatch(
            asyncio.get_running_loop(),
            0.02,
            0.02,
            lambda: Underway(Position(0, 0), None),
            told.set_result,
        )
        watch.arm()
        assert "0.02 seconds" in await told
        assert not watch.is_armed
