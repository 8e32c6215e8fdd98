"""The sending end of a replication session: its links and what arrives on them.

Control messages keep their order on the first link; TRACKS and HASHES go over
whichever link is least busy. The session ends with its first broken link: what
was not acknowledged then is sent again in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from common.errors import ConnectionLostError, PeerRefusedError, ProtocolError
from common.replication.lineage import judge, why_refused
from common.replication.link import Link
from common.replication.messages import (
    PROTOCOL_VERSION,
    Committed,
    Credit,
    CurrentAsOf,
    Goodbye,
    GoodbyeReason,
    Hashes,
    Hello,
    Join,
    Joined,
    Message,
    NeedFull,
    Progress,
    Tracks,
    Verified,
    Welcome,
)

Connect = Callable[[str], Awaitable[Link]]


class DrainEvents(Protocol):
    """What a drain listens to."""

    def on_credit(self, message: Credit) -> None: ...

    def on_progress(self, message: Progress) -> None: ...

    def on_need_full(self, message: NeedFull) -> None: ...


class VerifyEvents(Protocol):
    """What a verify listens to."""

    def on_verified(self, message: Verified) -> None: ...


class SendingSession:
    """Links of one epoch, after WELCOME."""

    def __init__(self, links: list[Link], welcome: Welcome) -> None:
        self.links = links
        self.welcome = welcome
        self.epoch = welcome.epoch
        self.features = welcome.features
        self.drain: DrainEvents | None = None
        self.verifier: VerifyEvents | None = None
        self.ended = False
        """Nothing is received any more: whoever waits for an answer waits in vain."""
        self._busy = [0] * len(links)
        self._committed: asyncio.Future[Committed] | None = None
        self._current: asyncio.Future[CurrentAsOf] | None = None

    @property
    def sent_bytes(self) -> int:
        return sum(link.sent_bytes for link in self.links)

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes sent that the remote's machine has not got yet."""
        return sum(link.unacknowledged_bytes() for link in self.links)

    @property
    def round_trip_seconds(self) -> float:
        """As the heartbeats tell; 0 before the first was answered."""
        return max((link.round_trip_seconds or 0.0 for link in self.links), default=0.0)

    async def send(self, message: Message) -> int:
        """Send a control message, in order."""
        return await self.links[0].send(message)

    async def send_bulk(self, message: Tracks | Hashes) -> int:
        """Send over the least busy link; return the frame's body checksum."""
        index = min(range(len(self.links)), key=self._busy.__getitem__)
        self._busy[index] += 1
        try:
            return await self.links[index].send(message)
        finally:
            self._busy[index] -= 1

    async def committed(self) -> Committed:
        """Wait for the answer to CYCLE_END."""
        self._committed = asyncio.get_running_loop().create_future()
        return await self._committed

    async def advance_current(self, number: int, time_ns: int) -> None:
        """Have the remote record, durably, that point `number` is current still."""
        self._current = asyncio.get_running_loop().create_future()
        await self.send(CurrentAsOf(self.epoch, number, time_ns))
        await self._current

    async def receive(self) -> None:
        """Receive on all links until one breaks: then raise why."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for link in self.links:
                    tasks.create_task(self._receive(link))
        finally:
            self.ended = True

    async def _receive(self, link: Link) -> None:
        while True:  # ends with the link
            message = await link.receive()
            if getattr(message, "epoch", self.epoch) == self.epoch:
                self._handle(message)

    def _handle(self, message: Message) -> None:
        match message:
            case Credit() | Progress() | NeedFull():
                self._tell_drain(message)
            case Verified():
                if self.verifier is not None:
                    self.verifier.on_verified(message)
            case Committed():
                if self._committed is not None and not self._committed.done():
                    self._committed.set_result(message)
            case CurrentAsOf():
                if self._current is not None and not self._current.done():
                    self._current.set_result(message)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not the remote's")

    def _tell_drain(self, message: Credit | Progress | NeedFull) -> None:
        if self.drain is None:
            return
        match message:
            case Credit():
                self.drain.on_credit(message)
            case Progress():
                self.drain.on_progress(message)
            case NeedFull():
                self.drain.on_need_full(message)

    async def close(self, goodbye: Goodbye | None = None) -> None:
        for link in self.links:
            await link.close(goodbye if link is self.links[0] else None)

    def abort(self) -> None:
        for link in self.links:
            link.abort()


async def open_session(
    addresses: list[str], hello: Hello, peer: str, connect: Connect
) -> SendingSession:
    """Connect every link of a session; the first one says HELLO, the rest join.

    Nothing counts as connected before WELCOME: until then no state has changed.
    """
    links: list[Link] = []
    try:
        link = await connect(addresses[0])
        links.append(link)
        await link.send(hello)
        welcome = check_welcome(await link.receive_first(), hello, peer)
        link.epoch = welcome.epoch
        for address in addresses[1:]:
            joined = await connect(address)
            links.append(joined)
            await _join(joined, welcome)
        for link in links:
            link.start_heartbeat()
    except BaseException:
        for link in links:
            link.abort()
        raise
    return SendingSession(links, welcome)


def check_welcome(welcome: Message, hello: Hello, peer: str) -> Welcome:
    """Refuse a remote that is not the configured one, or of another lineage (I7)."""
    if not isinstance(welcome, Welcome):
        raise ProtocolError(f"{type(welcome).__name__} in answer to a HELLO")
    if welcome.version != PROTOCOL_VERSION:
        raise ProtocolError(f"remote speaks version {welcome.version}")
    if welcome.site != peer:
        raise PeerRefusedError(
            GoodbyeReason.WRONG_PEER,
            f"the remote is site {welcome.site!r}, not {peer!r} as group.link.peer "
            "says; mend peer or remotes",
        )
    verdict = judge(hello.sender, welcome.receiver)
    if verdict.is_refusal:
        raise PeerRefusedError(
            GoodbyeReason.LINEAGE,
            why_refused(verdict, hello.group, hello.sender, welcome.receiver),
        )
    return welcome


async def _join(link: Link, welcome: Welcome) -> None:
    await link.send(Join(welcome.epoch, welcome.token))
    answer = await link.receive_first()
    if not isinstance(answer, Joined) or answer.epoch != welcome.epoch:
        raise ConnectionLostError(f"{link.peer}: could not join the session")
    link.epoch = welcome.epoch
