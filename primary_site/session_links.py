"""The links of a sending session: what they carry, and what goes on when one dies.

A session that agreed on the feature "links" lives as long as any of its links does.
When one dies, LINKS_LOST goes over another; the answer tells which frames of the dead
one arrived, and the rest come back to the drain. If it was the control link, control
messages go on over the other one with the first that the remote lacks. The dead one is
dialled again, with a pause that grows, and joins the session under a new number.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog

from common.errors import (
    ConnectionLostError,
    GarbledLinkError,
    PeerRefusedError,
    ProtocolError,
)
from common.replication.control import ControlChannel
from common.replication.cycle_messages import Hashes, Tracks
from common.replication.link import GARBLED_LINKS_MAX, Link, encode_message
from common.replication.link_messages import (
    LINKS_LOST_MAX,
    LinkNumber,
    LinksClosed,
    LinksLost,
)
from common.replication.messages import Message
from common.replication.sequences import covered
from common.replication.session_messages import Join, Joined, Welcome
from primary_site.paced import Pacing

Connect = Callable[[str], Awaitable[Link]]

REJOIN_SECONDS_MIN = 0.2
REJOIN_SECONDS_MAX = 5.0

MESSAGES_A_TURN = 64
"""Taken in before others of this loop, the hosts above all, get their turn: one read
of the socket may hold ten thousand."""

log = structlog.get_logger()


class SessionLinks:
    """`living` are those that carry; the first of them carries control messages."""

    def __init__(
        self,
        welcome: Welcome,
        links: Sequence[Link],
        addresses: Sequence[str],
        connect: Connect,
        pacing: Pacing,
        *,
        group: str,
        outlives: bool,
    ) -> None:
        """`addresses`: one for each link there shall be, those of `links` first.

        `group` is whose session it is, for the log.
        """
        self.living = list(links)
        self.addresses = list(addresses)
        self.control = ControlChannel(welcome.epoch, links[0], outlives=outlives)
        self.missing: list[str] = []
        """Addresses of links that are being dialled."""
        self.sent_before_bytes = 0
        """By links that are gone."""
        self._welcome = welcome
        self._connect = connect
        self._pacing = pacing
        self._outlives = outlives
        self._numbers = 0
        """Given to links so far."""
        self._busy: dict[Link, int] = {}
        self._cycle_id = b""
        self._placed: dict[int, int] = {}
        """Sequence -> number of the link, of frames of that cycle not yet durable."""
        self.control_link = links[0]
        self._turn = 0
        self._unresolved: list[int] = []
        self._is_moving = False
        self._garbled_count = 0
        self._tasks: asyncio.TaskGroup
        self._log = log.bind(group=group, epoch=welcome.epoch)
        for link in links:
            link.number = self._new_number()
            pacing.pace(link)

    def _new_number(self) -> int:
        self._numbers += 1
        return self._numbers - 1

    # -- sending -----------------------------------------------------------------------

    async def send_bulk(self, message: Tracks | Hashes) -> int:
        """Send over the least busy link; return the frame's body checksum.

        A link that dies meanwhile is no error where others live: the frame comes back
        (`lost_frames`) if it did not arrive.
        """
        frame = encode_message(message)
        link = await self._free_link()
        assert link.number is not None
        if message.cycle_id != self._cycle_id:
            self._cycle_id = message.cycle_id
            self._placed.clear()
        self._placed[message.sequence] = link.number
        self._busy[link] = self._busy.get(link, 0) + 1
        try:
            await link.send_bulk(frame)
        except ConnectionLostError:
            if not self._outlives:
                raise
            link.abort()  # whoever receives on it notices
        finally:
            self._busy[link] -= 1
            if not self._busy[link]:
                del self._busy[link]
        return frame.checksum

    async def _free_link(self) -> Link:
        """Return the least busy link, once pacing lets a frame go over it."""
        while True:  # ends with a free link, or with the session
            if not self.living:
                raise ConnectionLostError("no link of the session is left")
            link = min(self.living, key=lambda each: self._busy.get(each, 0))
            await self._pacing.free(link)
            if link in self.living:
                return link

    def durable(self, cycle_id: bytes, pairs: Sequence[tuple[int, int]]) -> None:
        """Forget where frames went that need not be sent again."""
        if cycle_id == self._cycle_id:
            for sequence in covered(self._placed, pairs):
                del self._placed[sequence]

    # -- living and dying --------------------------------------------------------------

    async def serve(self, handle: Callable[[Message], None]) -> None:
        """Receive on all links, and replace those that die.

        Raises `ConnectionLostError` once none is left, or what else ends the session.
        """
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self.control.pump())
            first = list(self.living)
            for index, address in enumerate(self.addresses):
                link = first[index] if index < len(first) else None
                self._tasks.create_task(self._stay(address, link, handle))

    async def _stay(
        self, address: str, link: Link | None, handle: Callable[[Message], None]
    ) -> None:
        """Keep up one link to an address."""
        pause = REJOIN_SECONDS_MIN
        while True:  # ends with the session
            if link is not None:
                try:
                    await self._receive(link, handle)
                except (ConnectionLostError, GarbledLinkError) as error:
                    self._lost(link, error)
                link = None
                self.missing.append(address)
                await _rest(pause)
            else:
                self.missing.append(address)
            while link is None:  # ends with the session
                try:
                    link = await self._join(address)
                except (ConnectionLostError, PeerRefusedError, ProtocolError) as error:
                    reason = str(error)
                    self._log.info("link_not_joined", address=address, reason=reason)
                    await _rest(pause)
                    pause = min(2 * pause, REJOIN_SECONDS_MAX)
            self.missing.remove(address)
            pause = REJOIN_SECONDS_MIN

    async def _receive(self, link: Link, handle: Callable[[Message], None]) -> None:
        for count in itertools.count(1):  # ends with the link
            message = await link.receive()
            if getattr(message, "epoch", self._welcome.epoch) == self._welcome.epoch:
                handle(message)
            if not count % MESSAGES_A_TURN:
                await asyncio.sleep(0)

    async def _join(self, address: str) -> Link:
        link = await self._connect(address)
        try:
            await join(link, self._welcome)
            link.number = self._new_number()
            await link.send(LinkNumber(self._welcome.epoch, link.number))
        except BaseException:
            link.abort()
            raise
        link.start_heartbeat()
        self._pacing.pace(link)
        self.living.append(link)
        self._log.info("link_joined", address=address, links=len(self.living))
        return link

    def _lost(self, link: Link, error: ConnectionLostError | GarbledLinkError) -> None:
        """Go on without a link whose last message has been read, or raise `error`."""
        self._garbled_count += isinstance(error, GarbledLinkError)
        if self._garbled_count > GARBLED_LINKS_MAX:
            raise error
        link.abort()
        self.living.remove(link)
        self.sent_before_bytes += link.sent_bytes
        if not (self._outlives and self.living):
            raise error
        self._log.warning("link_died", reason=str(error), links=len(self.living))
        assert link.number is not None
        self._unresolved.append(link.number)
        if len(self._unresolved) > LINKS_LOST_MAX:
            raise error
        if link is self.control_link:
            self.control_link = self.living[0]
            self._is_moving = True
            self.control.hold()
        self._turn += 1
        lost = LinksLost(
            self._welcome.epoch,
            self._turn,
            tuple(self._unresolved),
            self.control.received_count,
        )
        self._tasks.create_task(self._tell(self.control_link, lost))

    @staticmethod
    async def _tell(link: Link, lost: LinksLost) -> None:
        with contextlib.suppress(ConnectionLostError):  # then the next turn tells it
            await link.send(lost)

    def closed(self, answer: LinksClosed) -> tuple[bytes, list[int]]:
        """Take the remote's answer; return a cycle's frames that must be sent again."""
        if answer.turn != self._turn:
            return self._cycle_id, []
        numbers = set(self._unresolved)
        self._unresolved.clear()
        lost = {s for s, number in self._placed.items() if number in numbers}
        if answer.cycle_id == self._cycle_id:
            arrived = ((0, answer.next_sequence - 1), *answer.ahead)
            lost.difference_update(covered(lost, arrived))
        for sequence in lost:
            del self._placed[sequence]
        if self._is_moving:
            self._is_moving = False
            self.control.go_on(self.control_link, answer.control_count)
        return self._cycle_id, sorted(lost)


async def join(link: Link, welcome: Welcome) -> None:
    """Make a new link one of the session's."""
    await link.send(Join(welcome.epoch, welcome.token))
    answer = await link.receive_first()
    if not isinstance(answer, Joined) or answer.epoch != welcome.epoch:
        raise ConnectionLostError(f"{link.peer}: could not join the session")
    link.epoch = welcome.epoch


async def _rest(seconds: float) -> None:
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
