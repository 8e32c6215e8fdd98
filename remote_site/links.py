"""The links of a receiving session: which live, which are gone, what comes over them.

With the feature "links" the session lives as long as any link does. The sender tells
which of its links are gone (LINKS_LOST). The answer waits until each one's reader has
ended: all that arrived over it is taken in by then, nothing of it comes later, and so
the answer's count of frames and control messages is final for those links.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from common.errors import ConnectionLostError, GarbledLinkError, ProtocolError
from common.replication.control import ControlChannel
from common.replication.cycle_messages import RUNS_MAX, Hashes, Tracks
from common.replication.link import GARBLED_LINKS_MAX, Link
from common.replication.link_messages import (
    ControlReceived,
    LinkNumber,
    LinksClosed,
    LinksLost,
)
from common.replication.messages import Message
from remote_site.receiver import Receiver


class SessionLinks:
    """`living` are those that are read, the one that said HELLO first."""

    def __init__(self, receiver: Receiver, first: Link, *, outlives: bool) -> None:
        self.living: list[Link] = [first]
        self.control = ControlChannel(receiver.epoch, first, outlives=outlives)
        self._receiver = receiver
        self._outlives = outlives
        self.control_link = first
        self._numbered: dict[int, Link] = {0: first}
        self._gone: set[int] = set()
        """Numbers of links that the sender has given up."""
        self._readers: dict[Link, asyncio.Task[None]] = {}
        self._garbled_count = 0
        first.number = 0

    @property
    def readers(self) -> Sequence[asyncio.Task[None]]:
        return list(self._readers.values())

    def read(self, link: Link, reader: asyncio.Task[None]) -> None:
        """Have a link live from now on; `reader` takes in all that comes over it."""
        if link not in self.living:
            self.living.append(link)
        self._readers[link] = reader
        reader.add_done_callback(lambda _: self._readers.pop(link, None))

    def lost(self, link: Link, error: ConnectionLostError | GarbledLinkError) -> None:
        """Go on without a link, from its reader, or raise `error`.

        A link over which no frame came is the peer's fault only if it happens often;
        then, and where it was the last one, it stays open for the GOODBYE.
        """
        self._garbled_count += isinstance(error, GarbledLinkError)
        is_last = not self._outlives or self.living == [link]
        if self._garbled_count > GARBLED_LINKS_MAX or (
            is_last and isinstance(error, GarbledLinkError)
        ):
            raise error
        link.abort()
        if is_last:
            raise error
        self.living.remove(link)

    def last_word(self) -> Link | None:
        """Return the link over which to say goodbye."""
        if self.control_link in self.living:
            return self.control_link
        return self.living[0] if self.living else None

    async def take(self, link: Link, message: Message) -> bool:
        """Deal with what is about links; tell whether it was that."""
        match message:
            case Tracks() | Hashes():
                if self._outlives and link.number is None:
                    raise ProtocolError("tracks over a link without a number")
                return False
            case LinkNumber():
                self._number(link, message.number)
            case LinksLost():
                await self._answer(link, message)
            case ControlReceived():
                self.control.acknowledged(message.count)
            case _:
                self.control.note_received()
                return False
        return True

    def _number(self, link: Link, number: int) -> None:
        if not self._outlives or link.number is not None or number in self._numbered:
            raise ProtocolError(f"LINK {number} of a link that has its number")
        if number in self._gone:
            raise ConnectionLostError(f"{link.peer}: the sender has given it up")
        link.number = number
        self._numbered[number] = link

    async def _answer(self, link: Link, lost: LinksLost) -> None:
        if not self._outlives or link.number is None or link.number in lost.numbers:
            raise ProtocolError("LINKS_LOST over a link that can't tell it")
        self._gone.update(lost.numbers)
        for number in lost.numbers:
            dead = self._numbered.get(number)
            if dead is None:
                continue  # its LINK did not arrive, and is refused if it ever does
            dead.abort()
            if reader := self._readers.get(dead):
                await asyncio.wait([reader])
        if link is not self.control_link:
            if self.control_link.number not in lost.numbers:
                raise ProtocolError("LINKS_LOST beside the control link")
            self.control_link = link
            self.control.go_on(link, lost.control_count)
        for number in lost.numbers:
            self._numbered.pop(number, None)
        await link.send(self._closed(lost.turn))

    def _closed(self, turn: int) -> LinksClosed:
        receiver = self._receiver
        cycle_id = receiver.cycle.cycle_id if receiver.cycle is not None else None
        ahead = receiver.received.ahead()
        if len(ahead) > RUNS_MAX:
            raise ProtocolError("too many gaps between the frames received")
        return LinksClosed(
            receiver.epoch,
            turn,
            self.control.received_count,
            cycle_id,
            receiver.received.next,
            ahead,
        )
