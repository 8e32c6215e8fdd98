"""The sockets at which one NBD server accepts, from their binding to their end."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from common.addresses import Address, UnixAddress
from common.nbd.addresses import (
    Listening,
    bind,
    bound_address,
    file_identity,
    remove_socket_file,
)
from common.nbd.systemd_sockets import SystemdSockets

# From Python 3.13 on a loop would remove files of sockets, systemd's as well as ours.
_KEEP_SOCKET_FILE: Final[dict[str, Any]] = (
    {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
)


class Listeners:
    """All of one server; on its loop. First `bind`, then `accept_at`."""

    def __init__(self, listening: Listening, backlog_connections: int) -> None:
        self.addresses: list[str] = []
        """Where it accepts, with the ports that were really bound."""
        self._listening = listening
        self._backlog = backlog_connections
        self._servers: list[asyncio.Server] = []
        self._socket_files: list[tuple[str, tuple[int, int]]] = []

    def bind(self, address: Address, handed: SystemdSockets) -> list[socket.socket]:
        """Return an address's sockets; see `common.nbd.addresses.bind`.

        A file that is made for one stays until `stop`.
        """
        found = bind(address, self._backlog, self._listening, handed)
        if isinstance(address, UnixAddress):
            self._socket_files.append((address.path, file_identity(address.path)))
        return found

    async def accept_at(
        self,
        address: Address,
        bound: socket.socket,
        accept: Callable[[], asyncio.Protocol],
    ) -> None:
        """Accept at a socket of `bind`, which it owns from here on."""
        loop = asyncio.get_running_loop()
        if bound.family == socket.AF_UNIX:
            server = await loop.create_unix_server(
                accept, sock=bound, backlog=self._backlog, **_KEEP_SOCKET_FILE
            )
        else:
            server = await loop.create_server(accept, sock=bound, backlog=self._backlog)
        self._servers.append(server)
        self.addresses.append(bound_address(bound, address))

    def stop(self) -> None:
        """Accept nobody any more; files of sockets go first."""
        for path, identity in self._socket_files:
            remove_socket_file(path, identity)
        self._socket_files.clear()
        for server in self._servers:
            server.close()

    async def stopped(self) -> None:
        """Wait until all are closed, after `stop`."""
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        self.addresses.clear()
