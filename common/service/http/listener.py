"""The HTTP listener of a daemon: accepts, bounds, and closes connections.

On the daemon's main loop, where no host's request is served. It accepts by itself, so
that what it has no room or no turn for stays in the system's queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import Final

import structlog

from common.addresses import TcpAddress
from common.errors import ConfigError
from common.ports import Clock
from common.service.http.answers import Routes
from common.service.http.connection import HttpConnection
from common.service.http.limits import HttpLimits
from common.service.http.pace import Pace

BACKLOG_CONNECTIONS: Final = 64
RETRY_SECONDS: Final = 1.0
"""Before the next try where the system has no room for another connection."""

CLOSE_SECONDS_MAX: Final = 2.0

log = structlog.get_logger()


class HttpListener:
    """`listen` once, `close` once."""

    def __init__(
        self,
        routes: Routes,
        names: frozenset[str],
        clock: Clock,
        limits: HttpLimits | None = None,
    ) -> None:
        self.addresses: list[str] = []
        """Where it listens, with the ports that were really bound."""
        self._routes = routes
        self._names = names
        self._limits = limits or HttpLimits()
        self._pace = Pace(
            self._limits.turns_per_second, self._limits.turns_at_once, clock
        )
        self._streams = asyncio.Semaphore(self._limits.streams_max)
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        # In the order in which they came.
        self._connections: dict[asyncio.Task[None], HttpConnection] = {}
        self._ended = asyncio.Event()

    async def listen(self, address: TcpAddress) -> None:
        """Raises `ConfigError` where the address cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM
            )
            self._sockets = _bind_all([(family, name) for family, *_, name in found])
        except OSError as error:
            raise ConfigError(
                f"http.listen: {address.host_and_port}: {error.strerror or error}: "
                "choose an address of this host that is free"
            ) from None
        for each in self._sockets:
            host, port = each.getsockname()[:2]
            self.addresses.append(TcpAddress(host, port).host_and_port)
            self._accepting.append(asyncio.create_task(self._accept_for_ever(each)))

    async def close(self) -> None:
        """Accept no more, end all connections, whatever they do."""
        for task in self._accepting:
            task.cancel()
        for task, connection in self._connections.items():
            connection.drop()
            task.cancel()
        going = [*self._accepting, *self._connections]
        if going:
            await asyncio.wait(going, timeout=CLOSE_SECONDS_MAX)
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    async def _accept_for_ever(self, listening: socket.socket) -> None:
        while True:  # ends with the listener
            await self._pace.turn()
            await _readable(listening)
            # Not the loop's `sock_accept`: cancelled, it may lose what it accepted.
            try:
                accepted, _ = listening.accept()
            except BlockingIOError:  # it went away meanwhile
                continue
            except OSError as error:  # no descriptor left, say: they come back
                log.warning("http_connection_not_accepted", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._begin(accepted)

    async def _begin(self, accepted: socket.socket) -> None:
        try:
            await self._make_room()
        except asyncio.CancelledError:
            accepted.close()
            raise
        accepted.setblocking(False)
        # Who is gone without a word, a laptop that sleeps say, is not written to for a
        # quarter of an hour: its place among the streams is somebody else's.
        user_timeout_ms = int(self._limits.write_seconds_max * 1000)
        with contextlib.suppress(OSError):  # gone already
            accepted.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms
            )
        reader = asyncio.StreamReader(limit=self._limits.head_bytes_max)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, accepted
            )
        except OSError:  # gone already
            accepted.close()
            return
        except asyncio.CancelledError:
            accepted.close()
            raise
        # So that waiting for room in it is waiting until the system has it all.
        transport.set_write_buffer_limits(high=0)
        connection = HttpConnection(
            reader,
            asyncio.StreamWriter(transport, protocol, reader, loop),
            self._routes,
            self._names,
            self._limits,
            self._pace,
            self._streams,
        )
        task = asyncio.create_task(connection.serve())
        self._connections[task] = connection
        task.add_done_callback(self._note_ended)

    async def _make_room(self) -> None:
        """Wait until there is room: who has been silent for longest makes it."""
        while len(self._connections) >= self._limits.connections_max:
            silent = next((c for c in self._connections.values() if c.is_silent), None)
            if silent is not None:
                silent.drop()
            self._ended.clear()
            await self._ended.wait()

    def _note_ended(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)
        self._ended.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("http_connection_failed", exc_info=error)


async def _readable(listening: socket.socket) -> None:
    loop, waiting = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listening, waiting.set)
    try:
        await waiting.wait()
    finally:
        loop.remove_reader(listening)


def _bind_all(names: list[tuple[int, object]]) -> list[socket.socket]:
    """Bind all that a host's name stands for, less what this machine does not have.

    `localhost` is often listed with an IPv6 address where IPv6 is switched off.
    """
    bound: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, name in names:
            try:
                bound.append(_bind(family, name))
            except OSError as error:
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
                absent = error
        if absent is not None and not bound:
            raise absent
    except OSError:
        for each in bound:
            each.close()
        raise
    return bound


def _bind(family: int, name: object) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(name)  # type: ignore[arg-type]
        listening.listen(BACKLOG_CONNECTIONS)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
