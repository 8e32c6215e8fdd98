"""Questions of a verify that no sender of ours asks, and points that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.errors import ProtocolError
from common.replication.hash_tree import root_of
from common.replication.messages import Message
from common.replication.verify_messages import (
    QUESTIONS_MAX,
    Outcome,
    Verified,
    Verify,
)
from common.service.clock import SystemClock
from common.storage.geometry import Geometry
from remote_site.receiver import VolumeShape
from remote_site.store import GroupStore
from remote_site.verifying import Answering
from tests.support.remote_store_group import (
    BINDING,
    OFFERS,
    SETTINGS,
    filled,
    make_files,
    tracks_of,
)
from tests.support.simulated_files import InlineThreads

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
        del number
        shape = SHAPES[volume]
        return SimpleNamespace(
            geometry=Geometry(shape.size_bytes, shape.track_bytes, shape.track_bytes)
        )

    async def run_reader(self, job: Callable[[], Any]) -> Any:
        del job
        return False, (b"l" * 16,)


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

    return Answering(
        3, cast("GroupStore", store), SHAPES, [0, 1], send, SystemClock(), lambda: False
    )


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


async def test_the_point_asked_about_is_compared_whatever_is_applied_since(
    sent: list[Message],
) -> None:
    """The next cycle is committed, and one more begun, before the answer."""
    store = await GroupStore.open(make_files(), InlineThreads(), SETTINGS)
    await store.bind(**BINDING)
    names = {number: bytes([number]) * 16 for number in (1, 2)}

    async def apply(number: int) -> None:
        for index, offer in enumerate(OFFERS):
            data = filled(offer, number, 3)
            await store.apply(index, [tracks_of(offer, 0, data)])

    async def commit(number: int) -> None:
        await apply(number)
        await store.flush()
        await store.commit(
            number=number, cycle_id=names[number], cut_ns=number, label=None
        )

    async def send(message: Message) -> None:
        sent.append(message)

    shapes = [VolumeShape(each.size_bytes, each.track_bytes) for each in OFFERS]
    answering = Answering(3, store, shapes, [0, 1], send, SystemClock(), lambda: False)
    await commit(1)
    for index, offer in enumerate(OFFERS):
        asked = question(
            question=index,
            cycle_id=names[1],
            volume=index,
            count=3,
            root=root_of([filled(offer, 1, 3)]),
        )
        answering.take(asked)
    await commit(2)
    await apply(9)
    answering.take(question(question=7, cycle_id=names[1]))
    answering._queue.put_nowait(None)
    await answering.run()
    outcomes = [each.outcome for each in sent if isinstance(each, Verified)]
    assert outcomes[:2] == [Outcome.EQUAL, Outcome.EQUAL]
    assert outcomes[2] == Outcome.DIFFERS, "pinned by the questions before it"
    assert not store.is_pinned(1)
    answering = Answering(3, store, shapes, [0, 1], send, SystemClock(), lambda: False)
    await store.commit(number=3, cycle_id=b"3" * 16, cut_ns=3, label=None)
    answering.take(question(question=8, cycle_id=names[1]))
    answering._queue.put_nowait(None)
    await answering.run()
    assert isinstance(sent[-1], Verified)
    assert sent[-1].outcome == Outcome.GONE


async def test_an_end_does_not_wait_for_a_rest(
    store: OnePoint, sent: list[Message]
) -> None:
    """Beside a cycle a slow read is followed by a long rest; a session's end is not."""
    slow = SlowClock()

    async def send(message: Message) -> None:
        sent.append(message)

    answering = Answering(
        3, cast("GroupStore", store), SHAPES, [0, 1], send, slow, lambda: True
    )
    answering.take(question(question=0))
    answering.take(question(question=1))
    running = asyncio.create_task(answering.run())
    while not sent:  # ends: the first is answered at once
        await asyncio.sleep(0)
    answering.end()
    await running
    assert len(sent) == 1
    assert store.pins == 0


class SlowClock(SystemClock):
    """The first read takes an hour; then time stands still."""

    def __init__(self) -> None:
        self._looks = 0

    def monotonic(self) -> float:
        self._looks += 1  # before the rest, before the read, after it
        return 0.0 if self._looks <= 2 else 3600.0
