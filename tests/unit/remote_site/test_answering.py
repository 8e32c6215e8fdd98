"""Questions of a verify that no sender of ours asks, and points that are gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from common.errors import ProtocolError
from common.replication.messages import (
    QUESTIONS_MAX,
    Message,
    Outcome,
    Verified,
    Verify,
)
from remote_site.receiver import VolumeShape
from remote_site.store import GroupStore
from remote_site.verifying import Answering

CYCLE = b"c" * 16
SHAPES = [VolumeShape(1 << 30, 4096), VolumeShape(5120, 4096)]


class OnePoint:
    """Stands for a store that has one point, of cycle CYCLE, and counts its pins."""

    def __init__(self) -> None:
        self.pins = 0

    def pin_cycle(self, cycle_id: bytes) -> int | None:
        if cycle_id != CYCLE:
            return None
        self.pins += 1
        return 7

    def unpin(self, number: int) -> None:
        assert number == 7
        self.pins -= 1

    def image(self, volume: int, number: int) -> Any:
        del volume, number

    async def run_reader(self, job: Callable[[], Any]) -> Any:
        del job
        return [b"l" * 16]


@pytest.fixture
def store() -> OnePoint:
    return OnePoint()


@pytest.fixture
def sent() -> list[Message]:
    return []


@pytest.fixture
def answering(store: OnePoint, sent: list[Message]) -> Answering:
    async def send(message: Message) -> None:
        sent.append(message)

    return Answering(3, cast("GroupStore", store), SHAPES, [0, 1], send)


def question(**fields: Any) -> Verify:
    asked = {
        "epoch": 3,
        "cycle_id": CYCLE,
        "question": 0,
        "volume": 0,
        "first": 0,
        "count": 1,
        "root": b"r" * 16,
    }
    return Verify(**(asked | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"volume": 2},
        {"count": 0},
        {"first": (1 << 18) - 1, "count": 2},
        {"count": (64 << 20) // 4096 + 1},
        {"volume": 1, "first": 0, "count": 3},
    ],
)
async def test_what_is_out_of_bounds_ends_the_session(
    answering: Answering, store: OnePoint, fields: dict[str, Any]
) -> None:
    with pytest.raises(ProtocolError):
        answering.take(question(**fields))
    assert store.pins == 0


async def test_more_questions_than_agreed_end_the_session(answering: Answering) -> None:
    for number in range(QUESTIONS_MAX):
        answering.take(question(question=number))
    with pytest.raises(ProtocolError):
        answering.take(question(question=QUESTIONS_MAX))


async def test_pins_last_from_the_question_to_the_answer_and_no_longer(
    answering: Answering, store: OnePoint, sent: list[Message]
) -> None:
    answering.take(question(question=1))
    answering.take(question(question=2, cycle_id=b"d" * 16))
    assert store.pins == 1
    answering.take(question(epoch=2))  # another session's: dropped
    answering._queue.put_nowait(None)
    await answering.run()
    first, second = sent
    assert isinstance(first, Verified)
    assert isinstance(second, Verified)
    assert (first.question, first.outcome) == (1, Outcome.DIFFERS)
    assert first.leaves == (b"l" * 16,)
    assert (second.question, second.outcome) == (2, Outcome.GONE)
    assert store.pins == 0


async def test_a_session_that_ends_lets_go_of_what_is_queued(
    answering: Answering, store: OnePoint, sent: list[Message]
) -> None:
    for number in range(3):
        answering.take(question(question=number))
    assert store.pins == 3
    answering.end()
    await answering.run()
    assert store.pins == 0
    assert sent == []
    answering.take(question())
    assert store.pins == 0
