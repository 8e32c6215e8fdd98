"""Taking a connection away from its transport without ending it."""

from __future__ import annotations

import asyncio
import os
import socket


def detach(transport: asyncio.Transport) -> socket.socket:
    """Abort a transport that has nothing unsent, and return its connection, open.

    It is a second descriptor of the same connection: closing the transport's own
    neither shuts it down nor loses what has not been read.
    """
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    connection = socket.socket(fileno=descriptor)
    connection.setblocking(False)
    transport.abort()
    return connection
