"""A sending session over links that die: what goes again, in which order, to whom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from common.errors import ConnectionLostError, ProtocolError
from common.replication.codec import encode_meta
from common.replication.cycle_messages import Credit, Tracks
from common.replication.features import GROW
from common.replication.frame import encode_frame
from common.replication.lineage import ReceiverState
from common.replication.link import GARBLED_LINKS_MAX, Link
from common.replication.link_messages import (
    LinkNumber,
    LinksClosed,
    LinksLost,
)
from common.replication.messages import Message
from common.replication.session_messages import (
    Hello,
    Join,
    Joined,
    Noted,
    Resize,
    Welcome,
)
from common.service.clock import SystemClock
from common.service.config_primary import LinkTable
from primary_site.background import first_of
from primary_site.paced import Pacing
from primary_site.session import SendingSession
from primary_site.session_links import MESSAGES_A_TURN, SessionLinks
from tests.support.memory_pipe import Pipe
from tests.support.replication_messages import EXAMPLES

EPOCH = 7
CYCLE = b"c" * 16
TOKEN = b"t" * 16
PATIENCE_SECONDS = 30.0


class Far:
    """The remote's end of one link: all that comes over it, and what a test says."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.link = Link(pipe, SystemClock())
        self.link._parser.payload_bytes_max = 1 << 20
        self.got: list[Message] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionLostError):
            while True:
                message = await self.link.receive()
                self.got.append(message)
                if isinstance(message, Join):
                    await self.link.send(Joined(message.epoch))

    async def has(self, count: int) -> list[Message]:
        """Wait until so many messages have come; return them all."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.got) < count:
                await asyncio.sleep(0)
        return self.got

    def break_off(self) -> None:
        self.pipe.abort()


class Drain:
    """What a drain would be told."""

    def __init__(self) -> None:
        self.lost: list[int] = []
        self.credits: list[Credit] = []

    def on_credit(self, message: Credit) -> None:
        self.credits.append(message)

    def on_progress(self, _: object) -> None:
        raise AssertionError

    def on_need_full(self, _: object) -> None:
        raise AssertionError

    def on_frames_lost(
        self, cycle_id: bytes, open_cycle_id: bytes | None, sequences: Sequence[int]
    ) -> None:
        assert cycle_id == open_cycle_id == CYCLE
        self.lost += sequences


class Sending:
    """A session of `count` links whose remote is the test."""

    def __init__(self, count: int) -> None:
        self.fars: list[Far] = []
        self.drain = Drain()
        self.may_join = asyncio.Event()
        """Until it is set, links that are dialled have to wait."""
        self._count = count

    async def start(self) -> None:
        table = {"remotes": ["dr:1"], "peer": "b", "allow_plaintext_replication": True}
        pacing = Pacing(LinkTable.model_validate(table), SystemClock())
        welcome = Welcome(
            2, "b", EPOCH, TOKEN, b"q" * 16, ReceiverState(), None, None, 1 << 24, ()
        )
        first = self._pipe()
        first._parser.payload_bytes_max = 1 << 20
        self.links = SessionLinks(
            welcome,
            [first],
            [f"dr:{number}" for number in range(self._count)],
            self._connect,
            pacing,
            group="g",
            outlives=True,
        )
        hello = EXAMPLES["hello"]
        assert isinstance(hello, Hello)
        self.session = SendingSession(welcome, self.links, pacing, hello)
        drain: Any = self.drain
        self.session.drain = drain
        self.may_join.set()
        self.receiving = asyncio.create_task(self.session.receive())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.links.living) < self._count:
                await asyncio.sleep(0)
        self.may_join.clear()

    def _pipe(self) -> Link:
        near, far = Pipe.pair(1 << 20)
        self.fars.append(Far(far))
        link = Link(near, SystemClock())
        link.epoch = EPOCH
        return link

    async def _connect(self, _: str) -> Link:
        await self.may_join.wait()
        return self._pipe()

    async def frames(self, *sequences: int) -> None:
        for sequence in sequences:
            await self.session.send_bulk(Tracks(EPOCH, CYCLE, sequence, 0, 1, b"x"))

    async def has_heard(self, far: Far) -> None:
        """Return once all that the remote has said over a link has been taken in."""
        count = len(self.drain.credits)
        await far.link.send(Credit(EPOCH, CYCLE, 1))
        await self.until(lambda: len(self.drain.credits) > count)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                await asyncio.sleep(0)

    async def ended(self) -> BaseException:
        """Wait for the session's end; return why."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(BaseExceptionGroup) as failed:
                await self.receiving
        error = first_of(failed.value)
        assert isinstance(error, ProtocolError)
        return error

    async def stop(self) -> None:
        self.receiving.cancel()
        await asyncio.gather(self.receiving, return_exceptions=True)
        self.session.abort()
        for far in self.fars:
            far.break_off()
        await asyncio.gather(*(far.reading for far in self.fars))


@contextlib.asynccontextmanager
async def sending(count: int = 2) -> AsyncIterator[Sending]:
    found = Sending(count)
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


def after(messages: list[Message], kind: type[Message]) -> list[Message]:
    """Return what came after the first message of a type."""
    index = next(i for i, each in enumerate(messages) if isinstance(each, kind))
    return messages[index + 1 :]


def tells_of_loss(far: Far) -> list[LinksLost]:
    return [each for each in far.got if isinstance(each, LinksLost)]


async def test_of_a_dead_link_s_frames_only_those_that_did_not_arrive_go_again() -> (
    None
):
    async with sending() as site:
        await site.frames(0, 1, 2, 3, 4)
        first, other = site.fars
        first.break_off()
        await site.until(lambda: tells_of_loss(other))
        assert tells_of_loss(other) == [LinksLost(EPOCH, 1, (0,), 0)]
        assert site.drain.lost == [], "before the remote has said what it has"
        await other.link.send(LinksClosed(EPOCH, 1, 0, CYCLE, 1, ((3, 3),)))
        await site.has_heard(other)
        assert site.drain.lost == [1, 2, 4]
        await site.frames(1)
        await site.until(lambda: isinstance(other.got[-1], Tracks))


async def test_frames_that_are_durable_or_went_another_way_never_go_again() -> None:
    async with sending() as site:
        await site.frames(0, 1, 2)
        site.links.durable(CYCLE, [(0, 1)])
        first, other = site.fars
        first.break_off()
        await site.until(lambda: tells_of_loss(other))
        await site.frames(3)
        await other.link.send(LinksClosed(EPOCH, 1, 0, CYCLE, 0, ()))
        await site.has_heard(other)
        assert site.drain.lost == [2]


async def test_control_messages_go_on_only_once_the_remote_has_said_what_it_has() -> (
    None
):
    """Else one would come twice, or before one that it has not got."""
    notes = [Noted(EPOCH, bytes([number]) * 16) for number in range(5)]
    async with sending() as site:
        first, other = site.fars
        for note in notes[:2]:
            await site.session.send(note)
        await first.has(2)
        first.break_off()
        await site.until(lambda: tells_of_loss(other))
        for note in notes[2:4]:
            await site.session.send(note)
        for _ in range(50):
            await asyncio.sleep(0)
        assert after(other.got, LinksLost) == []
        await other.link.send(LinksClosed(EPOCH, 1, 1, None, 0, ()))
        await site.has_heard(other)
        await site.session.send(notes[4])
        await site.until(lambda: notes[4] in other.got)
        assert after(other.got, LinksLost) == notes[1:]


async def test_an_answer_to_an_older_turn_settles_nothing() -> None:
    async with sending(3) as site:
        await site.frames(0, 1)
        first, second, third = site.fars
        first.break_off()
        await site.until(lambda: tells_of_loss(second))
        second.break_off()
        await site.until(lambda: tells_of_loss(third))
        assert tells_of_loss(third) == [LinksLost(EPOCH, 2, (0, 1), 0)]
        await third.link.send(LinksClosed(EPOCH, 1, 0, CYCLE, 2, ()))
        await site.has_heard(third)
        assert site.drain.lost == []
        await third.link.send(LinksClosed(EPOCH, 2, 0, CYCLE, 1, ()))
        await site.has_heard(third)
        assert site.drain.lost == [1]


async def test_a_link_that_comes_again_is_of_this_session_and_has_a_new_number() -> (
    None
):
    async with sending() as site:
        site.fars[0].break_off()
        await site.until(lambda: tells_of_loss(site.fars[1]))
        site.may_join.set()
        await site.until(lambda: len(site.fars) == 3)
        again = await site.fars[2].has(2)
        assert again[:2] == [Join(EPOCH, TOKEN), LinkNumber(EPOCH, 2)]
        assert site.links.control_link is site.links.living[0]


async def test_what_a_link_brings_of_another_session_counts_for_nothing() -> None:
    async with sending() as site:
        await site.fars[0].link.send(Credit(EPOCH - 1, CYCLE, 5))
        await site.fars[0].link.send(Credit(EPOCH, CYCLE, 6))
        await site.until(lambda: site.drain.credits)
        assert [each.epoch for each in site.drain.credits] == [EPOCH]
        assert site.links.control.received_count == 1


async def test_a_link_that_brings_no_frames_is_one_that_died() -> None:
    async with sending() as site:
        first, other = site.fars
        first.pipe.other.arrived(b"this is no frame of replication")
        await site.until(lambda: tells_of_loss(other))
        assert len(site.links.living) == 1
        assert not site.receiving.done()


async def test_no_frames_over_one_link_after_another_end_the_session() -> None:
    async with sending() as site:
        site.may_join.set()
        for count in range(GARBLED_LINKS_MAX + 1):
            await site.until(lambda count=count: len(site.fars) == 2 + count)
            await site.until(lambda: len(site.links.living) == 2)
            site.fars[-1].pipe.other.arrived(b"this is no frame of replication")
            if count < GARBLED_LINKS_MAX:
                await site.until(lambda: len(site.links.living) == 1)
        assert "not a farshore replication frame" in str(await site.ended())


async def test_the_last_link_without_frames_ends_the_session() -> None:
    async with sending(1) as site:
        site.fars[0].pipe.other.arrived(b"this is no frame of replication")
        assert "not a farshore replication frame" in str(await site.ended())


async def test_a_remote_that_floods_lets_others_have_their_turns() -> None:
    """One read may hold ten thousand messages; hosts are served in between."""
    async with sending() as site:
        site.session.drain = None
        kind, meta = encode_meta(Credit(EPOCH, CYCLE, 1))
        flood = b"".join(bytes(each) for each in encode_frame(kind, meta, b"")) * 2000
        turns = 0

        async def host() -> None:
            nonlocal turns
            while site.links.control.received_count < 2000:
                turns += 1
                await asyncio.sleep(0)

        site.fars[0].pipe.other.arrived(flood)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await host()
        assert turns > 2000 // MESSAGES_A_TURN


async def test_progress_that_names_everything_costs_what_was_sent() -> None:
    """Of a cycle that is over, too, for whose frames nobody asks any more."""
    async with sending() as site:
        await site.frames(0, 1)
        site.links.durable(CYCLE, [(0, (1 << 63) - 1)] * 4096)
        assert site.links._placed == {}


async def test_all_sizes_are_told_before_the_first_answer() -> None:
    async with sending(1) as pair:
        (far,) = pair.fars
        pair.session.features, pair.session.sizes = (GROW,), [512, 512, 512]
        telling = asyncio.create_task(
            pair.session.resize([(0, 512, 4096), (2, 1024, 8192)])
        )
        asked = (await far.has(2))[-2:]
        assert asked == [Resize(EPOCH, 0, 512, 4096), Resize(EPOCH, 2, 1024, 8192)]
        assert pair.session.sizes == [512, 512, 512]
        for each in reversed(asked):
            await far.link.send(each)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await telling
        assert pair.session.sizes == [4096, 512, 8192]
