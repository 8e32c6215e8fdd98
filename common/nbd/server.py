"""The NBD server of a daemon: listens, counts connections, closes them in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import structlog

from common.certificates import TlsFiles
from common.nbd.access import AccessRule
from common.nbd.addresses import (
    Listening,
    demands_tls,
    parse_address,
)
from common.nbd.budget import MemoryBudget
from common.nbd.connections import (
    HandedOver,
    HostConnections,
    release_where_it_lives,
)
from common.nbd.connections_by_loop import ConnectionsByLoop
from common.nbd.handshake import Handshake
from common.nbd.kept_connection import NAME_PREFIX, DescriptorStore, KeptConnection
from common.nbd.limits import NbdLimits
from common.nbd.listeners import Listeners
from common.nbd.opening import ExportTable
from common.nbd.relay import Relay
from common.nbd.reopening import NotWelcomeError, reopen
from common.nbd.succession import Succession
from common.nbd.systemd_sockets import SystemdSockets
from common.nbd.tls import TlsServer

__all__ = ["ExportTable", "NbdLimits", "NbdSecurity", "NbdServer"]

_log = structlog.get_logger(__name__)

GRACE_SECONDS: Final = 5.0
"""For what is in flight at a stop to end, before all connections are closed."""
KEEPING_SECONDS: Final = 20.0
"""The same where connections are kept, for a flush of a disk that may be slow. The
units allow 90 s for the whole stop."""


@dataclass(frozen=True, slots=True)
class NbdSecurity:
    """Who gets in, and to what. The defaults are those of a config without a word."""

    listening: Listening = field(default_factory=Listening)
    tls: TlsServer | None = None
    """For the addresses that demand TLS; they cannot be bound without it."""
    rules: tuple[AccessRule, ...] = ()


class NbdServer:
    """Serves the exports of `exports` on any number of addresses.

    It lives on the daemon's main loop. A connection stays there until its
    handshake is done, and is then served on the loop of the volume it chose; the
    two loops tell each other by messages, so that a loop that hangs under a device
    keeps nobody waiting but the clients of that device.
    """

    def __init__(
        self,
        exports: ExportTable,
        limits: NbdLimits | None = None,
        security: NbdSecurity | None = None,
        store: DescriptorStore | None = None,
    ) -> None:
        """`store`: where connections outlive this process, see `kept_connection`."""
        self._exports = exports
        self._limits = limits or NbdLimits()
        self._security = security or NbdSecurity()
        self.budget = MemoryBudget(
            self._limits.daemon_bytes_in_flight_max, self._limits.connections_max
        )
        """What all connections hold together, on whichever loops they live."""
        self._listeners = Listeners(
            self._security.listening, self._limits.backlog_connections
        )
        # In the order in which they came.
        self._handshakes: dict[Handshake, None] = {}
        self._handed: set[HandedOver] = set()
        self._relays: dict[Relay, HandedOver] = {}
        self._hosts = ConnectionsByLoop(
            self._limits, self.budget, self._ended_elsewhere
        )
        self._succession = Succession(store)
        self._closing = False
        self._departure = asyncio.Event()
        """A connection that was handed over has ended."""
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    @property
    def addresses(self) -> list[str]:
        """Where it listens, with the ports that were really bound."""
        return self._listeners.addresses

    @property
    def connection_count(self) -> int:
        """Connections that are open or whose requests still run."""
        return len(self._handshakes) + len(self._handed | set(self._relays.values()))

    @property
    def handshake_count(self) -> int:
        """Connections that have not chosen an export yet."""
        return len(self._handshakes)

    @property
    def waiting_for_memory_count(self) -> int:
        """Batches of requests that wait until others have given memory back."""
        return self.budget.waiting_count

    def connections_by_export(self) -> dict[str, int]:
        """Return how many connections each export in use has."""
        return dict(Counter(handed.agreed.export_name for handed in self._handed))

    async def listen(self, addresses: Sequence[str]) -> None:
        """Go on with connections that were kept, and accept clients.

        See `common.addresses` for what an address may be. Raises `ConfigError` or
        `DeviceBusyError`; socket files that were made before stay until `close`.
        """
        self._loop = asyncio.get_running_loop()
        handed = SystemdSockets.of(os.environ)
        kept = handed.take_kept(NAME_PREFIX)
        with contextlib.ExitStack() as closing:
            listening = [
                (address, closing.enter_context(bound))
                for address in map(parse_address, addresses)
                for bound in self._listeners.bind(address, handed)
            ]
            # Before anybody new: the client of one of these may have come back.
            plain = [bound for address, bound in listening if not demands_tls(address)]
            await self._take_up(kept, plain)
            closing.pop_all()
        for address, bound in listening:
            accept = partial(self._accept, demands_tls=demands_tls(address))
            await self._listeners.accept_at(address, bound, accept)
        for name in handed.names:
            _log.warning("nbd_socket_not_used", name=name)

    def go_by(self, rules: tuple[AccessRule, ...]) -> None:
        """Have other rules say who opens which export; what is open stays open."""
        self._security = replace(self._security, rules=rules)

    async def _take_up(
        self, stored: dict[str, list[int]], plain: Sequence[socket.socket]
    ) -> None:
        def reopened(kept: KeptConnection) -> HandedOver:
            full = self.room_for(kept.state.agreed.export_name)
            if full is not None:
                raise NotWelcomeError(full)
            handed = reopen(kept, self._exports, self._security.rules, plain)
            self._handed.add(handed)
            self._all_closed.clear()
            return handed

        await self._hosts.take_up(await self._succession.take_up(stored, reopened))

    def prepare_certificates(self, files: TlsFiles | None = None) -> Callable[[], None]:
        """Read other certificates, or the same files again; see `TlsServer.prepare`."""
        if self._security.tls is None:
            return lambda: None
        return self._security.tls.prepare(files)

    async def close(self, *, grace_seconds: float | None = None) -> None:
        """Stop reading, let what is in flight end and be answered, close.

        Requests that were received but not started are dropped unanswered and their
        client is not told that we go: it then reconnects and sends them again, where
        an error would reach its applications. One that still negotiates has none; it
        is told for `farewell_seconds`, if it asks. After the grace the sockets are
        closed all the same; volumes whose requests still run are released when
        these end, which may be after this returns. With a store, connections that can
        go on in the next process are not closed, but given to it. A volume's loop that
        hangs or has stopped costs the grace and no more: nothing of it is waited for.
        """
        self._closing = True
        if grace_seconds is None:
            is_kept = self._succession.is_possible
            grace_seconds = KEEPING_SECONDS if is_kept else GRACE_SECONDS
        self._listeners.stop()
        for handshake in list(self._handshakes):
            handshake.shut_down()
        farewell = asyncio.get_running_loop().call_later(
            self._limits.farewell_seconds, self._close_handshakes
        )
        if self._succession.is_possible:
            self._hosts.tell(lambda hosts: hosts.keep(self._kept_elsewhere))
        else:
            self._hosts.tell(HostConnections.finish)
        try:
            await asyncio.wait_for(self._all_closed.wait(), grace_seconds)
        except TimeoutError:
            self._close_handshakes()
            self._hosts.tell(HostConnections.abort)
            for relay in list(self._relays):
                relay.abort()
        finally:
            farewell.cancel()
        await self._listeners.stopped()
        await self._succession.give()

    async def disconnect(self, export_name: str, *, grace_seconds: float = 5.0) -> None:
        """End the connections to an export that its table opens no more.

        What is in flight is answered first, but for what takes longer than the grace;
        these clients lose the connection.
        """
        for handshake in list(self._handshakes):
            if handshake.holds(export_name):
                handshake.close()
        leaving = {h for h in self._handed if h.agreed.export_name == export_name}
        self._hosts.tell(lambda hosts: hosts.disconnect(leaving))
        try:
            async with asyncio.timeout(grace_seconds):
                while leaving & self._handed:
                    self._departure.clear()
                    await self._departure.wait()
        except TimeoutError:
            self._hosts.tell(lambda hosts: hosts.drop(leaving))

    def _close_handshakes(self) -> None:
        for handshake in list(self._handshakes):
            handshake.close()

    # What handshakes call, as `HandshakeOwner`

    def admit(self, handshake: Handshake) -> None:
        self._handshakes[handshake] = None
        self._all_closed.clear()
        if self._closing:
            handshake.close()
            return
        full = self._full()
        if full is not None:
            handshake.refuse(full)
        elif len(self._handshakes) > self._limits.handshakes_max:
            # The oldest has had the most time. Refusing the newest instead would
            # let clients that say nothing keep all others out.
            next(iter(self._handshakes)).refuse("others came and it had not finished")

    def ended(self, handshake: Handshake) -> None:
        self._handshakes.pop(handshake, None)
        self._note_closed()

    def room_for(self, export_name: str) -> str | None:
        count = sum(h.agreed.export_name == export_name for h in self._handed)
        if count >= self._limits.connections_per_export_max:
            return f"{count} connections to {export_name!r} are open already"
        return self._full()

    def relay_ended(self, relay: Relay) -> None:
        self._relays.pop(relay)
        self._note_closed()

    def hand_over(self, handed: HandedOver, relay: Relay | None) -> None:
        for other, other_handed in list(self._relays.items()):
            if other_handed.agreed.export_name == handed.agreed.export_name:
                other.notice_hangup()
        self._handed.add(handed)
        if relay is not None:
            self._relays[relay] = handed
        try:
            self._hosts.hand_over(handed)
        except RuntimeError:
            _log.warning(
                "nbd_connection_refused", peer=handed.peer, reason="its loop has ended"
            )
            handed.connection.close()
            release_where_it_lives(handed.volume)
            self._ended(handed)

    def _full(self) -> str | None:
        count = len(self._handed)
        if count >= self._limits.connections_max:
            return f"{count} connections are open already"
        return None

    def _accept(self, *, demands_tls: bool) -> asyncio.Protocol:
        tls = self._security.tls if demands_tls else None
        assert tls is not None or not demands_tls
        return Handshake(
            self._exports, self._limits, self, tls=tls, rules=self._security.rules
        )

    # Across loops

    def _ended_elsewhere(self, handed: HandedOver) -> None:
        """Take note of a connection's end; called on the loop of its volume."""
        with contextlib.suppress(RuntimeError):  # ours is closed: nobody asks
            self._loop.call_soon_threadsafe(self._ended, handed)

    def _ended(self, handed: HandedOver) -> None:
        self._handed.discard(handed)
        self._departure.set()
        self._note_closed()

    def _kept_elsewhere(self, kept: KeptConnection) -> None:
        """Take a connection that is given away; called on the loop of its volume."""
        try:
            self._loop.call_soon_threadsafe(self._succession.add, kept)
        except RuntimeError:  # ours is closed: it comes too late
            kept.connection.close()

    def _note_closed(self) -> None:
        if self.connection_count == 0:
            self._all_closed.set()
