"""Where primaries connect: whoever opens a link, to which group it belongs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from common.certificates import Certificate
from common.errors import ConnectionLostError, PeerRefusedError, ProtocolError
from common.ports import Clock
from common.replication.credentials import Credentials
from common.replication.link import HANDSHAKE_SECONDS, Link
from common.replication.link_life import LINK_SECONDS_MAX, LinkLife
from common.replication.messages import Message
from common.replication.session_messages import (
    Goodbye,
    GoodbyeReason,
    Hello,
    Join,
    Joined,
    goodbye,
)
from common.replication.stream import Address, SocketStream, StreamServer, serve
from common.replication.tls_stream import secure
from remote_site.admission import certificate_refusal, unknown_group
from remote_site.group import ReceivingGroup
from remote_site.session import LINKS_MAX, ReceivingSession
from remote_site.unknown_connections import (
    Unknown,
    UnknownConnections,
    origin_of,
)

SentHere = Callable[[Hello], tuple[str, Goodbye] | None]
"""Answers for a group that this site sends itself: (its peer, what to say to that one).
None: it is for the receiving group to answer."""


def nothing_sent(hello: Hello) -> tuple[str, Goodbye] | None:
    """Answer at a site that sends nothing."""
    del hello
    return None


class ReplicationListener:
    """Accepts links for all groups of this site."""

    def __init__(
        self,
        groups: Mapping[str, ReceivingGroup],
        clock: Clock,
        credentials: Credentials | None = None,
    ) -> None:
        """Without credentials it speaks plain text, with whoever comes."""
        self.credentials = credentials
        """Of the connections to come; those there are keep theirs."""
        self.sent_here: SentHere = nothing_sent
        self._groups = groups
        self._clock = clock
        self._servers: list[StreamServer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._unknown = UnknownConnections()
        self._waiting: dict[Unknown, SocketStream] = {}
        self._closing = False
        self._log = structlog.get_logger()

    async def listen(self, addresses: Sequence[Address]) -> None:
        """Accept on all addresses. Raises `ConfigError` or `DeviceBusyError`."""
        for address in addresses:
            server = await serve(address, self._accept)
            self._servers.append(server)

    @property
    def ports(self) -> list[int]:
        return [server.port for server in self._servers]

    async def stop_accepting(self) -> None:
        """Take no more links, and drop those that are not yet one."""
        self._closing = True
        for server in self._servers:
            await server.close()

    async def close(self) -> None:
        """Wait for what is left. The groups must have been closed before."""
        await self.stop_accepting()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, stream: SocketStream) -> None:
        if self._closing:
            stream.abort()
            return
        unknown = Unknown(origin_of(stream.peer))
        victim = self._unknown.admit(unknown)
        if victim is not None:
            dropped = self._waiting.pop(victim, stream)
            dropped.abort()
            self._refused(dropped.peer, "too many connections without a handshake")
        if victim is unknown:
            return
        self._waiting[unknown] = stream
        task = asyncio.create_task(self._serve(stream, unknown))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: SocketStream, unknown: Unknown) -> None:
        link: Link | None = None
        try:
            try:
                link, certificate, first = await self._introduced(stream, unknown)
                found = await self._answer(link, certificate, first)
            finally:
                self._waiting.pop(unknown, None)
                self._unknown.forget(unknown)
            if isinstance(found, Goodbye):
                self._refused(link.peer, found.text)
                await link.close(found)
                return
            group, session = found
            await session.serve(link)
            if session.closed.is_set():
                group.session_ended(session)
        except (ProtocolError, ConnectionLostError, PeerRefusedError) as error:
            self._refused(stream.peer, str(error))
        except Exception:  # noqa: BLE001 - a connection can't harm the daemon
            self._log.exception("replication_connection_failed", peer=stream.peer)
        finally:
            if link is not None:
                link.abort()
            stream.abort()

    async def _introduced(
        self, stream: SocketStream, unknown: Unknown
    ) -> tuple[Link, Certificate | None, Message]:
        """Take TLS and the first message, both within the handshake's time."""
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                credentials = self.credentials
                if credentials is None:
                    link, certificate = Link(stream, self._clock), None
                else:
                    secured = await secure(stream, credentials)
                    certificate = secured.certificate
                    until = self._clock.monotonic() + LINK_SECONDS_MAX
                    life = LinkLife(credentials.own, certificate, until)
                    link = Link(secured, self._clock, life)
                    if self._is_expected(certificate):
                        self._unknown.recognise(unknown)
                first = await link.receive_first()
        except TimeoutError:
            raise ConnectionLostError(
                f"{stream.peer}: no handshake within {HANDSHAKE_SECONDS:g} s"
            ) from None
        unknown.can_be_dropped = False
        return link, certificate, first

    def _is_expected(self, certificate: Certificate) -> bool:
        return any(
            certificate_refusal(certificate, group.name, group.config.peer) is None
            for group in self._groups.values()
        )

    async def _answer(
        self, link: Link, certificate: Certificate | None, first: Message
    ) -> tuple[ReceivingGroup, ReceivingSession] | Goodbye:
        match first:
            case Hello():
                return await self._hello(link, certificate, first)
            case Join():
                return await self._join(link, certificate, first)
            case _:
                raise ProtocolError(f"{type(first).__name__} without a session")

    async def _hello(
        self, link: Link, certificate: Certificate | None, hello: Hello
    ) -> tuple[ReceivingGroup, ReceivingSession] | Goodbye:
        sent = self.sent_here(hello)
        if sent is not None:
            peer, answer = sent
            return certificate_refusal(certificate, hello.group, peer) or answer
        group = self._groups.get(hello.group)
        if group is None:
            return unknown_group(hello)
        # Before the group knows of it: a stranger is to leave no trace there.
        refused = certificate_refusal(certificate, group.name, group.config.peer)
        if refused is not None:
            return refused
        opened = await group.open_session(link, hello)
        if isinstance(opened, Goodbye):
            return opened
        group.peer_certificate = certificate
        return group, opened

    async def _join(
        self, link: Link, certificate: Certificate | None, join: Join
    ) -> tuple[ReceivingGroup, ReceivingSession] | Goodbye:
        for group in self._groups.values():
            session = group.find_session(join.token, join.epoch)
            if session is None:
                continue
            refused = certificate_refusal(certificate, group.name, group.config.peer)
            if refused is not None:
                return refused
            if len(session.links) >= LINKS_MAX:
                return goodbye(
                    GoodbyeReason.PROTOCOL, f"a session has at most {LINKS_MAX} links"
                )
            await link.send(Joined(session.epoch))
            link.epoch = session.epoch
            link.start_heartbeat()
            return group, session
        return goodbye(
            GoodbyeReason.SUPERSEDED_SESSION, "the session to join is over; say HELLO"
        )

    def _refused(self, peer: str, reason: str) -> None:
        self._log.warning("replication_connection_refused", peer=peer, reason=reason)
