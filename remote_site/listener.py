"""Where primaries connect: whoever opens a link, to which group it belongs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from common.errors import ConnectionLostError, PeerRefusedError, ProtocolError
from common.ports import Clock
from common.replication.link import Link
from common.replication.messages import (
    Goodbye,
    GoodbyeReason,
    Hello,
    Join,
    Joined,
    goodbye,
)
from common.replication.stream import Address, SocketStream, StreamServer, serve
from remote_site.admission import unknown_group
from remote_site.group import ReceivingGroup
from remote_site.session import LINKS_MAX, ReceivingSession

UNKNOWN_CONNECTIONS_MAX = 32
"""Connections that have not yet become a link: each costs a buffer and a task."""


class ReplicationListener:
    """Accepts links for all groups of this site."""

    def __init__(self, groups: Mapping[str, ReceivingGroup], clock: Clock) -> None:
        self._groups = groups
        self._clock = clock
        self._servers: list[StreamServer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._unknown_count = 0
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
        if self._closing or self._unknown_count >= UNKNOWN_CONNECTIONS_MAX:
            stream.abort()
            self._refused(stream.peer, "too many connections without a handshake")
            return
        self._unknown_count += 1
        task = asyncio.create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: SocketStream) -> None:
        link = Link(stream, self._clock)
        try:
            try:
                found = await self._handshake(link)
            finally:
                self._unknown_count -= 1
            if isinstance(found, Goodbye):
                self._refused(link.peer, found.text)
                await link.close(found)
                return
            group, session = found
            await session.serve(link)
            group.session_ended(session)
        except (ProtocolError, ConnectionLostError, PeerRefusedError) as error:
            self._refused(link.peer, str(error))
        except Exception:  # noqa: BLE001 - a connection can't harm the daemon
            self._log.exception("replication_connection_failed", peer=link.peer)
        finally:
            link.abort()

    async def _handshake(
        self, link: Link
    ) -> tuple[ReceivingGroup, ReceivingSession] | Goodbye:
        """Read what opens the link and answer it, within the handshake's time."""
        first = await link.receive_first()
        match first:
            case Hello():
                return await self._hello(link, first)
            case Join():
                return await self._join(link, first)
            case _:
                raise ProtocolError(f"{type(first).__name__} without a session")

    async def _hello(
        self, link: Link, hello: Hello
    ) -> tuple[ReceivingGroup, ReceivingSession] | Goodbye:
        group = self._groups.get(hello.group)
        if group is None:
            return unknown_group(hello)
        opened = await group.open_session(link, hello)
        return opened if isinstance(opened, Goodbye) else (group, opened)

    async def _join(
        self, link: Link, join: Join
    ) -> tuple[ReceivingGroup, ReceivingSession] | Goodbye:
        for group in self._groups.values():
            session = group.find_session(join.token, join.epoch)
            if session is None:
                continue
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
