"""Control messages in order, each once, over links that break at any message."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from common.errors import ConnectionLostError, ProtocolError
from common.replication.control import KEPT_MAX, UNTOLD_MAX, ControlChannel
from common.replication.link_messages import (
    ControlReceived,
)
from common.replication.messages import Message
from common.replication.session_messages import Noted


class Wire:
    """A link that carries so many messages and then breaks, perhaps unnoticed."""

    def __init__(self, room: int, *, silent: bool = False) -> None:
        self.room = room
        self.silent = silent
        self.carried: list[Message] = []

    async def send(self, message: Message) -> int:
        if len(self.carried) < self.room:
            self.carried.append(message)
        elif not self.silent:
            raise ConnectionLostError("broken")
        return 0


def channel(wire: Wire, *, outlives: bool = True) -> ControlChannel:
    link: Any = wire
    return ControlChannel(7, link, outlives=outlives)


@contextlib.asynccontextmanager
async def pumping(sender: ControlChannel) -> Any:
    pump = asyncio.create_task(sender.pump())
    try:
        yield pump
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)


def messages(count: int, first: int = 0) -> list[Noted]:
    return [Noted(7, index.to_bytes(16, "big")) for index in range(first, count)]


@pytest.mark.parametrize("seed", range(20))
async def test_each_arrives_once_and_in_order_whatever_breaks(seed: int) -> None:
    rng, sent = random.Random(seed), messages(300)
    wire = Wire(rng.randrange(40), silent=rng.random() < 0.5)
    sender, got = channel(wire), []
    async with pumping(sender):
        posted = 0
        while len(got) < len(sent):
            for message in sent[posted : posted + rng.randrange(20)]:
                sender.post(message)
                posted += 1
            for _ in range(3):
                await asyncio.sleep(0)
            got += wire.carried
            if len(wire.carried) == wire.room or rng.random() < 0.2:
                sender.hold()
                wire = Wire(rng.randrange(40), silent=rng.random() < 0.5)
                link: Any = wire
                sender.go_on(link, len(got))
            else:
                wire.room -= len(wire.carried)
                wire.carried.clear()
                if rng.random() < 0.5:
                    sender.acknowledged(len(got))
    assert got == sent


async def test_the_peer_is_told_what_it_may_forget() -> None:
    wire = Wire(100)
    receiver = channel(wire)
    async with pumping(receiver):
        for _ in range(2 * UNTOLD_MAX + 5):
            receiver.note_received()
        await receiver.rested()
    assert wire.carried == [ControlReceived(7, 2 * UNTOLD_MAX + 5)]


async def test_a_peer_that_acknowledges_nothing_ends_the_session() -> None:
    sender = channel(Wire(0, silent=True))
    for message in messages(KEPT_MAX):
        sender.post(message)
    with pytest.raises(ConnectionLostError, match="acknowledged"):
        sender.post(Noted(7, None))


async def test_counts_that_can_t_be_are_refused() -> None:
    wire = Wire(10)
    sender = channel(wire)
    async with pumping(sender):
        for message in messages(5):
            sender.post(message)
        await sender.rested()
        with pytest.raises(ProtocolError):
            sender.acknowledged(6)
        sender.acknowledged(3)
        sender.acknowledged(2)  # an older one that came late
        link: Any = wire
        with pytest.raises(ProtocolError):
            sender.go_on(link, 2)


async def test_a_peer_has_not_received_more_than_it_said_when_its_link_died() -> None:
    """It would have messages forgotten that are yet to be sent again."""
    wire, other = Wire(10), Wire(10)
    sender = channel(wire)
    async with pumping(sender):
        for message in messages(5):
            sender.post(message)
        await sender.rested()
    sender.hold()
    link: Any = other
    sender.go_on(link, 1)
    with pytest.raises(ProtocolError, match="5 control messages received, of 1"):
        sender.acknowledged(5)
    async with pumping(sender):
        await sender.rested()
        sender.acknowledged(5)
    assert other.carried == messages(5, first=1)


async def test_a_peer_that_knows_no_other_link_keeps_nothing_for_it() -> None:
    wire = Wire(5)
    sender = channel(wire, outlives=False)
    async with pumping(sender) as pump:
        for message in messages(5):
            sender.post(message)
        await sender.rested()
        with pytest.raises(ProtocolError):
            sender.acknowledged(1)
        sender.post(Noted(7, None))
        with pytest.raises(ConnectionLostError):
            await asyncio.wait_for(pump, 10)
    assert wire.carried == messages(5)
