"""NBD clients that stop where they should not, and the ways in which they go."""

from __future__ import annotations

import enum
import socket
import struct

from tests.support.nbd_client import NbdClient

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
