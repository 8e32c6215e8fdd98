"""LINKS_LOST: the answer waits for all that had come over the dead links."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.errors import ConnectionLostError, GarbledLinkError, ProtocolError
from common.replication.cycle_messages import CycleBegin, Tracks
from common.replication.link import GARBLED_LINKS_MAX
from common.replication.link_messages import (
    LinkNumber,
    LinksClosed,
    LinksLost,
)
from common.replication.messages import Message
from common.replication.session_messages import Noted
from remote_site.links import SessionLinks
from remote_site.receiver import Receiver, VolumeShape

CYCLE = b"c" * 16


class Wire:
    """A link that keeps what is sent over it."""

    peer = "a"

    def __init__(self) -> None:
        self.number: int | None = None
        self.sent: list[Message] = []
        self.is_aborted = False

    async def send(self, message: Message) -> int:
        self.sent.append(message)
        return 0

    def abort(self) -> None:
        self.is_aborted = True


def wire() -> Any:
    return Wire()


class Receiving:
    """A cycle under way over two links, 0 and 1."""

    def __init__(self) -> None:
        self.receiver = Receiver(1, [VolumeShape(1 << 20, 4096)], None, None)
        self.receiver.begin(CycleBegin(1, 1, CYCLE, 0, None))
        self.first, self.other = wire(), wire()
        self.links = SessionLinks(self.receiver, self.first, outlives=True)

    @classmethod
    async def begun(cls) -> Receiving:
        found = cls()
        await found.links.take(found.other, LinkNumber(1, 1))
        return found

    def frame(self, sequence: int) -> None:
        assert self.receiver.take(Tracks(1, CYCLE, sequence, 0, 10))


async def test_a_frame_that_a_dead_link_s_reader_still_has_counts_as_received() -> None:
    site = await Receiving.begun()
    go_on = asyncio.Event()

    async def reader() -> None:
        """Stands before a full queue with a frame, and with a control message."""
        await go_on.wait()
        site.frame(1)
        await site.links.take(site.first, Noted(1, None))

    reading = asyncio.create_task(reader())
    site.links.read(site.first, reading)
    site.frame(0)
    site.frame(3)
    asked = asyncio.create_task(site.links.take(site.other, LinksLost(1, 1, (0,), 0)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert site.first.is_aborted
    assert site.other.sent == [], "answered before the reader has ended"
    go_on.set()
    async with asyncio.timeout(10):
        assert await asked
    await reading
    assert site.other.sent == [LinksClosed(1, 1, 1, CYCLE, 2, ((3, 3),))]
    assert site.links.control_link is site.other


async def test_a_link_given_up_before_its_number_came_is_refused() -> None:
    site = await Receiving.begun()
    late = wire()
    await site.links.take(site.other, LinksLost(1, 1, (0, 2), 0))
    with pytest.raises(ConnectionLostError):
        await site.links.take(late, LinkNumber(1, 2))
    with pytest.raises(ProtocolError):
        await site.links.take(late, Tracks(1, CYCLE, 0, 0, 10))


async def test_links_are_not_told_lost_by_themselves_nor_beside_the_control_link() -> (
    None
):
    site = await Receiving.begun()
    with pytest.raises(ProtocolError):
        await site.links.take(site.other, LinksLost(1, 1, (1,), 0))
    with pytest.raises(ProtocolError):
        await site.links.take(site.other, LinksLost(1, 1, (5,), 0))
    with pytest.raises(ProtocolError):
        await site.links.take(site.other, LinkNumber(1, 7))


async def test_the_last_link_ends_the_session_and_the_others_do_not() -> None:
    site = await Receiving.begun()
    site.links.living.append(site.other)
    site.links.lost(site.first, ConnectionLostError("gone"))
    assert list(site.links.living) == [site.other]
    with pytest.raises(ConnectionLostError):
        site.links.lost(site.other, ConnectionLostError("gone"))


async def test_links_without_frames_end_the_session_only_if_they_are_many() -> None:
    site = await Receiving.begun()
    for number in range(GARBLED_LINKS_MAX):
        garbled = wire()
        site.links.living.append(garbled)
        site.links.lost(garbled, GarbledLinkError("no frame"))
        assert garbled.is_aborted
        assert garbled not in site.links.living, number
    one_more = wire()
    site.links.living.append(one_more)
    with pytest.raises(GarbledLinkError):
        site.links.lost(one_more, GarbledLinkError("no frame"))
    assert not one_more.is_aborted, "nothing could be said over it any more"


async def test_the_last_link_stays_open_for_the_reason_why_its_bytes_are_refused() -> (
    None
):
    site = await Receiving.begun()
    with pytest.raises(GarbledLinkError):
        site.links.lost(site.first, GarbledLinkError("no frame"))
    assert not site.first.is_aborted
