"""TCP connections behind the `ByteStream` port; for asyncio's loop and uvloop's.

Little is buffered here on purpose: what lies in a buffer can't be overtaken, and
a heartbeat must not wait behind megabytes of tracks.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import termios
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from common.errors import ConfigError, ConnectionLostError, DeviceBusyError
from common.ports import Buffer

USER_TIMEOUT_SECONDS = 10
"""Sent bytes unacknowledged for this long end the connection (RFC 5482)."""

KEEPALIVE_IDLE_SECONDS = 5
KEEPALIVE_INTERVAL_SECONDS = 2
KEEPALIVE_PROBES = 3

NOT_SENT_BYTES = 128 << 10
"""TCP_NOTSENT_LOWAT: what the kernel holds beyond what is on its way."""

WRITE_HIGH_BYTES = 64 << 10
WRITE_LOW_BYTES = 16 << 10
"""Writers wait above the first until the second; one frame may exceed it."""

READ_HIGH_BYTES = 1 << 20
"""Received and not yet read: above this the socket is left alone, TCP pushes back."""

CLOSE_SECONDS = 2.0
"""A closing stream may send what is queued for this long, then it is dropped."""

LISTEN_BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon listens: `host:port`, an IPv6 host in brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`, with or without a leading `tcp:`."""
        host, colon, port = text.removeprefix("tcp:").rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ConfigError(f"{text!r}: put an IPv6 address in brackets")
        if not colon or not host or not port.isascii() or not port.isdecimal():
            raise ConfigError(
                f"{text!r}: expected HOST:PORT, as in dr.example.net:7420"
            )
        if int(port) > 65535:
            raise ConfigError(f"{text!r}: a port is at most 65535")
        return cls(host, int(port))

    def __str__(self) -> str:
        return (
            f"[{self.host}]:{self.port}"
            if ":" in self.host
            else f"{self.host}:{self.port}"
        )


class SocketStream(asyncio.Protocol):
    """One connected socket as a `ByteStream`: one reader, any number of writers."""

    def __init__(self, accepted: Callable[[SocketStream], None] | None = None) -> None:
        self.peer = "unknown"
        self._accepted = accepted
        self._transport: asyncio.Transport | None = None
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._reading_paused = False
        self._ended = False
        self._reader: asyncio.Future[None] | None = None
        self._writing_paused = False
        self._writers: deque[asyncio.Future[None]] = deque()
        self._error: Exception | None = None
        self._closed = asyncio.get_running_loop().create_future()

    async def read(self, limit_bytes: int) -> bytes:
        """Return the oldest received bytes; `b""` once the peer has ended.

        Raises `ConnectionLostError` if the connection broke instead.
        """
        assert limit_bytes > 0
        while not self._chunks:  # ends with the next event of the socket
            if self._error is not None:
                raise ConnectionLostError(f"{self.peer}: {self._error}")
            if self._ended:
                return b""
            assert self._reader is None, "one reader at a time"
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._take(limit_bytes)

    def _take(self, limit_bytes: int) -> bytes:
        chunk = self._chunks.popleft()
        if len(chunk) > limit_bytes:
            self._chunks.appendleft(chunk[limit_bytes:])
            chunk = chunk[:limit_bytes]
        self._buffered_bytes -= len(chunk)
        if self._reading_paused and self._buffered_bytes <= READ_HIGH_BYTES // 2:
            self._reading_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        return chunk

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """Queue at once, in order and unbroken; then wait while the peer is slow.

        The buffers must not change any more. Two tasks that write get whole turns.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionLostError(f"{self.peer}: {self._error or 'closed'}")
        for buffer in buffers:
            transport.write(buffer)
        while self._writing_paused:  # ends when the peer takes bytes or the link ends
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._writers.append(waiter)
            try:
                await waiter
            finally:
                self._writers.remove(waiter)
        if self._error is not None:
            raise ConnectionLostError(f"{self.peer}: {self._error}")

    def unacknowledged_bytes(self) -> int:
        """Return what is queued here and in the kernel, and on its way."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return 0
        count = array("i", [0])
        found = transport.get_extra_info("socket")
        if found is not None:
            fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, count)  # SIOCOUTQ: tcp(7)
        return count[0] + transport.get_write_buffer_size()

    async def close(self) -> None:
        """Send what is queued, within `CLOSE_SECONDS`, then close."""
        transport = self._transport
        if transport is None:
            return
        transport.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.shield(self._closed)
        except TimeoutError:
            transport.abort()
        except asyncio.CancelledError:
            transport.abort()
            raise

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods but not the base class.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(Address(str(peer[0]), int(peer[1])))
        _tune(transport.get_extra_info("socket"))
        if self._accepted is not None:
            self._accepted(self)

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes > READ_HIGH_BYTES and not self._reading_paused:
            assert self._transport is not None
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake_reader()
        return False  # a half-open session is of no use: the transport closes

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = self._error or exc
        self._writing_paused = False
        self._wake_reader()
        self._wake_writers()
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake_writers()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writers(self) -> None:
        for waiter in self._writers:
            if not waiter.done():
                waiter.set_result(None)


def _tune(found: socket.socket | None) -> None:
    """Set what makes a dead peer known soon and keeps the send queue short."""
    if found is None or found.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    tcp = socket.IPPROTO_TCP
    found.setsockopt(tcp, socket.TCP_NODELAY, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found.setsockopt(tcp, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    found.setsockopt(tcp, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    found.setsockopt(tcp, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    found.setsockopt(tcp, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_SECONDS * 1000)
    found.setsockopt(tcp, _TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)


_TCP_NOTSENT_LOWAT = 25
"""From <linux/tcp.h>; Python's socket module names it from 3.12 on only."""


async def connect(address: Address, timeout_seconds: float) -> SocketStream:
    """Connect; `ConnectionLostError` names the address when that fails."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_seconds):
            _, stream = await loop.create_connection(
                SocketStream, address.host, address.port
            )
    except TimeoutError:
        raise ConnectionLostError(
            f"{address}: no answer within {timeout_seconds:g} s"
        ) from None
    except OSError as error:
        raise ConnectionLostError(f"{address}: {error.strerror or error}") from error
    return stream


class StreamServer:
    """A listening socket; accepted streams belong to who was told of them."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    @property
    def port(self) -> int:
        """The bound port: what 0 became."""
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more; accepted streams live on."""
        self._server.close()


async def serve(
    address: Address, accepted: Callable[[SocketStream], None]
) -> StreamServer:
    """Listen; `accepted(stream)` is called on the loop for each connection.

    Raises `DeviceBusyError` if the port is taken, `ConfigError` if the address is
    none of this machine's.
    """
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(
            lambda: SocketStream(accepted),
            address.host,
            address.port,
            backlog=LISTEN_BACKLOG,
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DeviceBusyError(
                f"replication.listen: {address} is in use; stop who has it or "
                "name another port"
            ) from error
        raise ConfigError(
            f"replication.listen: cannot listen on {address}: "
            f"{error.strerror or error}; name an address of this machine"
        ) from error
    return StreamServer(server)
