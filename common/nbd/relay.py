"""Carries the plain side of a TLS connection to the loop of its volume.

TLS ends on the main loop. What clients say goes through a socket pair to the
volume's loop, so that a transmission sees a plain stream whoever its client is.
Each side stops reading while the other cannot write, which bounds what lies here
to one write buffer and one read each way; and when one side ends so does the other,
after what it was still owed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, cast

from common.nbd.liveness import (
    Life,
    Told,
    ask_socket,
    has_hung_up,
    read_away,
    unacknowledged_bytes,
)

WRITE_BUFFER_BYTES_MAX: Final = 1 << 20
"""Queued to one side before the other is left unread."""
PAIR_BUFFER_BYTES: Final = 512 << 10
"""Asked of the system for each direction of the pair; it may give less."""


class _Side(asyncio.Protocol):
    """One of the two ends; `other` is set before anything is read."""

    def __init__(self, lost: Callable[[], None], *, is_tls: bool) -> None:
        self._is_tls = is_tls
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.attach(cast("asyncio.Transport", transport))

    def attach(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES_MAX)

    def data_received(self, data: bytes) -> None:
        other = self._opposite()
        if other is not None:
            other.write(data)

    def eof_received(self) -> bool:
        other = self._opposite()
        if other is not None:
            if other.can_write_eof():
                other.write_eof()
            else:
                other.close()
        # A plain stream may go on the other way. TLS ends both ways at once, and
        # what was answered after that nobody could read.
        return not self._is_tls

    def pause_writing(self) -> None:
        other = self._opposite()
        if other is not None:
            other.pause_reading()

    def resume_writing(self) -> None:
        other = self._opposite()
        if other is not None:
            other.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        other = self._opposite()
        if other is not None:
            other.close()
        self.transport = None
        self._lost()

    def _opposite(self) -> asyncio.Transport | None:
        other = self.other
        if other is None or other.transport is None or other.transport.is_closing():
            return None
        return other.transport


class Relay:
    """Between a TLS transport, which is not reading, and a socket pair."""

    def __init__(
        self,
        encrypted: asyncio.Transport,
        plain: asyncio.Transport,
        ended: Callable[[Relay], None],
    ) -> None:
        """Take a transport over, and `plain`, which it sends through.

        `ended` is called once, when both sides are closed.
        """
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._plain = plain
        self._ours, self.theirs = socket.socketpair()
        for end in (self._ours, self.theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAIR_BUFFER_BYTES)
            end.setblocking(False)
        self._encrypted = encrypted
        self._client = _Side(self._side_lost, is_tls=True)
        self._volume = _Side(self._side_lost, is_tls=False)
        self._client.other, self._volume.other = self._volume, self._client
        self._client.attach(encrypted)
        encrypted.set_protocol(self._client)
        self._open_count = 2
        self._starting = asyncio.get_running_loop().create_task(self._start())

    def abort(self) -> None:
        """Close both sides now, with what is still queued."""
        self._encrypted.abort()
        if self._volume.transport is not None:
            self._volume.transport.abort()

    def notice_hangup(self) -> None:
        """Let go of the volume if the client is gone.

        While the volume does not read, neither do we; the socket tells.
        """
        if self._client.transport is None:
            return
        connection = self._encrypted.get_extra_info("socket")
        if has_hung_up(connection):
            read_away(connection)
            # At once: the transmission is asked next whether its client is there.
            self._ours.shutdown(socket.SHUT_WR)
            self.abort()

    def ask(self, connection: socket.socket, told: Told) -> None:
        """Ask for the volume's side, on its loop, whether the client is there.

        `connection` is its end of the pair. What it has sent is first read here,
        then written into TLS and sent in one go, and then acknowledged.
        """
        if unacknowledged_bytes(connection):
            told(Life.UNKNOWN)
            return
        # Whoever read the last of it has passed it on before this runs there.
        with contextlib.suppress(RuntimeError):  # closed, as everything is
            self._loop.call_soon_threadsafe(
                self._ask_client, asyncio.get_running_loop(), told
            )

    def _ask_client(self, asking: asyncio.AbstractEventLoop, told: Told) -> None:
        def tell(life: Life) -> None:
            with contextlib.suppress(RuntimeError):
                asking.call_soon_threadsafe(told, life)

        if self._client.transport is None or self._encrypted.is_closing():
            tell(Life.GONE)
        elif (
            self._encrypted.get_write_buffer_size()
            or self._plain.get_write_buffer_size()
        ):
            tell(Life.UNKNOWN)
        else:
            ask_socket(self._encrypted.get_extra_info("socket"), tell)

    async def _start(self) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._volume, self._ours
            )
        except BaseException:
            self._ours.close()
            self._encrypted.abort()
            self._side_lost()
            raise
        assert self._volume.transport is not None
        if self._client.transport is None or self._encrypted.is_closing():
            self._volume.transport.close()
        else:
            self._encrypted.resume_reading()

    def _side_lost(self) -> None:
        self._open_count -= 1
        if self._open_count == 0:
            self._ended(self)
