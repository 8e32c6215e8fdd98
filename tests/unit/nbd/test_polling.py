"""When a loop looks for the next request instead of sleeping."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.nbd import polling
from common.nbd.polling import (
    POLL_SECONDS,
    SKIPPED_TURNS_MAX,
    SKIPPED_TURNS_MIN,
    Polling,
)


class Turns:
    """A loop that only gathers what it is to run next."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.asked.append(callback)

    def turn(self) -> int:
        """Run what was asked for; return how much that was."""
        asked, self.asked = self.asked, []
        for callback in asked:
            callback()
        return len(asked)


class Desk:
    """A polling, its loop, and a clock that stands still unless it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(polling, "monotonic", lambda: self.now)
        self.loop = Turns()
        self.polling = Polling(self.loop.call_soon)

    def look_in_vain(self) -> None:
        self.polling.answered()
        assert self.loop.turn() == 1
        self.now += POLL_SECONDS
        assert self.loop.turn() == 1
        assert self.loop.turn() == 0, "it goes on looking"

    def skipped(self) -> int:
        """Count the turns without a look, up to and without the next look."""
        count = 0
        self.polling.answered()
        while not self.loop.asked:
            count += 1
            self.polling.answered()
        return count


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


def test_it_looks_until_the_time_is_over_and_then_sleeps(desk: Desk) -> None:
    desk.polling.answered()
    for _ in range(10):
        assert desk.loop.turn() == 1
    desk.now += POLL_SECONDS
    assert desk.loop.turn() == 1
    assert desk.loop.turn() == 0


def test_looks_in_vain_come_ever_more_seldom(desk: Desk) -> None:
    desk.look_in_vain()
    skipped = []
    for _ in range(9):
        skipped.append(desk.skipped())
        desk.now += POLL_SECONDS
        desk.loop.turn()
        desk.loop.turn()
    assert skipped[:3] == [SKIPPED_TURNS_MIN, 32, 64]
    assert skipped[-1] == SKIPPED_TURNS_MAX


def test_a_look_that_finds_something_is_taken_again(desk: Desk) -> None:
    for _ in range(100):
        desk.polling.answered()
        desk.loop.turn()
        desk.polling.arrived()
        assert len(desk.loop.asked) == 1, "one turn is asked for, and no more"
    desk.loop.turn()
    assert not desk.loop.asked, "nothing to look for while it is being answered"


def test_what_was_found_ends_the_pause(desk: Desk) -> None:
    desk.look_in_vain()
    assert desk.skipped() == SKIPPED_TURNS_MIN
    desk.polling.arrived()
    desk.loop.turn()
    desk.look_in_vain()
    assert desk.skipped() == SKIPPED_TURNS_MIN
