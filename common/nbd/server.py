"""The NBD server of a daemon: listens, counts connections, closes them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from common.nbd.addresses import (
    UnixAddress,
    bind,
    bound_address,
    file_identity,
    parse_address,
    remove_socket_file,
)
from common.nbd.handshake import ExportTable, Handshake
from common.nbd.limits import NbdLimits
from common.nbd.transmission import Transmission

__all__ = ["ExportTable", "NbdLimits", "NbdServer"]


class NbdServer:
    """Serves the exports of `exports` on any number of addresses."""

    def __init__(self, exports: ExportTable, limits: NbdLimits | None = None) -> None:
        self.addresses: list[str] = []
        """Where it listens, with the ports that were really bound."""
        self._exports = exports
        self._limits = limits or NbdLimits()
        self._servers: list[asyncio.Server] = []
        self._socket_files: list[tuple[str, tuple[int, int]]] = []
        self._handshakes: set[Handshake] = set()
        self._transmissions: set[Transmission] = set()
        self._closing = False
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    @property
    def connection_count(self) -> int:
        """Connections that are open or whose requests still run."""
        return len(self._handshakes) + len(self._transmissions)

    async def listen(self, addresses: Sequence[str]) -> None:
        """Accept clients on "unix:/path" and "tcp:host:port" (0: any free port).

        Raises `ConfigError` or `DeviceBusyError`; what was bound before stays
        until `close`.
        """
        loop = asyncio.get_running_loop()
        for text in addresses:
            address = parse_address(text)
            for bound in bind(address, self._limits.backlog_connections):
                if isinstance(address, UnixAddress):
                    identity = file_identity(address.path)
                    self._socket_files.append((address.path, identity))
                    server = await loop.create_unix_server(self._accept, sock=bound)
                else:
                    server = await loop.create_server(self._accept, sock=bound)
                self._servers.append(server)
                self.addresses.append(bound_address(bound))

    async def close(self, *, grace_seconds: float = 5.0) -> None:
        """Stop reading, let what is in flight end and be answered, close.

        Requests that were received but not started are dropped unanswered and no
        client is told that we go: it then reconnects and sends them again, where
        an error would reach its applications. After the grace the sockets are
        closed all the same; volumes whose requests still run are released when
        these end, which may be after this returns.
        """
        self._closing = True
        for path, identity in self._socket_files:
            remove_socket_file(path, identity)
        self._socket_files.clear()
        for server in self._servers:
            server.close()
        for handshake in list(self._handshakes):
            handshake.close()
        for transmission in list(self._transmissions):
            transmission.finish()
        try:
            await asyncio.wait_for(self._all_closed.wait(), grace_seconds)
        except TimeoutError:
            for transmission in list(self._transmissions):
                transmission.abort()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        self.addresses.clear()

    def _accept(self) -> asyncio.Protocol:
        return Handshake(
            self._exports,
            self._limits,
            self._admit,
            self._handshake_ended,
            self._closed,
        )

    def _admit(self, handshake: Handshake) -> None:
        open_count = self.connection_count
        self._handshakes.add(handshake)
        self._all_closed.clear()
        if self._closing:
            handshake.close()
        elif open_count >= self._limits.connections_max:
            handshake.refuse(f"{open_count} connections are open already")

    def _handshake_ended(
        self, handshake: Handshake, transmission: Transmission | None
    ) -> None:
        self._handshakes.discard(handshake)
        if transmission is not None:
            transmission.start_after(self._running_out(transmission.export_name))
            self._transmissions.add(transmission)
        self._note_closed()

    def _closed(self, transmission: Transmission) -> None:
        self._transmissions.discard(transmission)
        for other in self._transmissions:
            other.predecessor_closed(transmission)
        self._note_closed()

    def _running_out(self, export_name: str) -> set[Transmission]:
        """Return the ended connections to an export whose requests still run.

        We cannot know whose client it is that comes back, so it is all of them.
        """
        others = [t for t in self._transmissions if t.export_name == export_name]
        for other in others:
            other.notice_hangup()
        return {other for other in others if other.is_running_out}

    def _note_closed(self) -> None:
        if self.connection_count == 0:
            self._all_closed.set()
