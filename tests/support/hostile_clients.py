"""NBD clients that stop where they should not, and the ways in which they go."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
from typing import Any

from common.addresses import TcpAddress, UnixAddress, parse_listen_address
from common.nbd.protocol import (
    CLIENT_FLAGS,
    GREETING,
    OPTION_HEADER,
    OPTION_MAGIC,
    OPTION_REPLY,
    REQUEST,
    REQUEST_MAGIC,
    UINT16,
    UINT32,
    Option,
    OptionReply,
)
from common.ports import BASE_ALLOCATION
from tests.support.nbd_client import NbdClient, counted

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, zero seconds: close() sends RST and drops what was not sent."""


class Ending(enum.Enum):
    """How a client's socket ends. On a Unix socket RESET is a CLOSE."""

    CLOSE = "close"
    RESET = "reset"
    HALF_CLOSE = "half-close"
    """It will send no more, and stays to read."""


def end_socket(connection: socket.socket, how: Ending) -> None:
    """End a connection; after HALF_CLOSE the caller still has to close it."""
    if how is Ending.HALF_CLOSE:
        connection.shutdown(socket.SHUT_WR)
        return
    if how is Ending.RESET and connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    connection.close()


def end_client(client: NbdClient, how: Ending) -> None:
    """End a client's connection with whatever it has in flight.

    What its own buffers still hold is never sent: it died before.
    """
    transport = client._transport
    assert transport is not None
    connection = transport.get_extra_info("socket")
    if how is Ending.HALF_CLOSE:
        connection.shutdown(socket.SHUT_WR)
        return
    if how is Ending.RESET and connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


class StoppingClient:
    """A client on a plain blocking socket, which can stop after any byte.

    `go` and the like wait for the server's answers; `send` waits for nothing.
    """

    def __init__(self, address: str, *, patience_seconds: float = 30.0) -> None:
        where = parse_listen_address(address)
        if isinstance(where, TcpAddress):
            self.socket = socket.socket(socket.AF_INET)
            target: Any = (where.host, where.port)
        else:
            assert isinstance(where, UnixAddress)
            self.socket = socket.socket(socket.AF_UNIX)
            target = where.path
        self.socket.settimeout(patience_seconds)
        try:
            self.socket.connect(target)
        except OSError:
            self.socket.close()
            raise

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def take(self, length: int) -> bytes:
        """Return exactly so many bytes from the server."""
        found = b""
        while len(found) < length:
            part = self.socket.recv(length - len(found))
            if not part:
                raise ConnectionResetError("the server hung up")
            found += part
        return found

    def discard(self, length: int) -> None:
        self.take(length)

    def until_closed(self) -> None:
        """Read on until the server has closed its side."""
        with contextlib.suppress(ConnectionResetError):
            while self.socket.recv(1 << 16):
                pass

    def greet(self) -> None:
        self.take(GREETING.size)
        self.send(CLIENT_FLAGS.pack(3))

    def option(self, number: int, data: bytes = b"") -> None:
        """Send an option and take its replies, up to the last."""
        self.send(option(number, data))
        while True:
            header = OPTION_REPLY.unpack(self.take(OPTION_REPLY.size))
            _, _, kind, length = header
            self.take(length)
            if kind == OptionReply.ACK or kind >= OptionReply.ERR_UNSUP:
                return

    def go(self, export: str, *, structured: bool = True) -> None:
        """Go through the handshake, into transmission."""
        self.greet()
        if structured:
            self.option(Option.STRUCTURED_REPLY)
            self.option(
                Option.SET_META_CONTEXT,
                counted(export) + UINT32.pack(1) + counted(BASE_ALLOCATION),
            )
        self.option(Option.GO, counted(export) + UINT16.pack(0))

    def end(self, how: Ending) -> None:
        end_socket(self.socket, how)
        if how is Ending.HALF_CLOSE:
            self.until_closed()
            self.socket.close()


def option(number: int, data: bytes = b"") -> bytes:
    return OPTION_HEADER.pack(OPTION_MAGIC, number, len(data)) + data


def request(
    command: int, offset: int, length: int, data: bytes = b"", *, cookie: int = 1
) -> bytes:
    """Return a request as it goes over the wire (compact header)."""
    return REQUEST.pack(REQUEST_MAGIC, 0, command, cookie, offset, length) + data
