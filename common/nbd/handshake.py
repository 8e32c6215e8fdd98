"""A connection from accept to its hand-over: the shell around `Negotiation`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Protocol, cast

import structlog

from common.nbd.addresses import prepare_tcp
from common.nbd.connections import HandedOver, release_where_it_lives
from common.nbd.limits import NbdLimits
from common.nbd.negotiation import Agreed, Ended, ExportFacts, Negotiation, Outcome
from common.ports import HostVolume

_log = structlog.get_logger(__name__)


class ExportTable(Protocol):
    """The exports of a daemon. Called on the main loop; both answer at once."""

    def names(self) -> list[tuple[str, str]]:
        """Return (name, description) of each export that LIST shows."""
        ...

    def open(self, name: str) -> HostVolume | None:
        """Open an export, or return None if there is no such name.

        The opening stays as it is (size, recovery point) until its `release`,
        which is called exactly once, on the volume's own loop.
        """
        ...


class _Opening:
    """The export a handshake talks about, held open from INFO to GO.

    One opening serves both, so that GO can not tell anything else than INFO did
    and transmission serves exactly what was told, whatever commits meanwhile.
    """

    def __init__(self, exports: ExportTable) -> None:
        self._exports = exports
        self._name = ""
        self._volume: HostVolume | None = None

    def names(self) -> Sequence[tuple[str, str]]:
        return self._exports.names()

    def facts(self, name: str) -> ExportFacts | None:
        if self._volume is None or name != self._name:
            self.release()
            self._name, self._volume = name, self._exports.open(name)
        volume = self._volume
        if volume is None:
            return None
        return ExportFacts(
            size_bytes=volume.size_bytes,
            read_only=volume.read_only,
            description=volume.description,
            preferred_block_bytes=volume.preferred_block_bytes,
            contexts=volume.contexts,
            fast_zero=volume.fast_zero,
        )

    def take(self, name: str) -> HostVolume:
        """Hand over the volume that `facts` told of; the taker releases it."""
        assert name == self._name
        volume, self._volume = self._volume, None
        assert volume is not None
        return volume

    def release(self) -> None:
        volume, self._volume = self._volume, None
        if volume is not None:
            release_where_it_lives(volume)


class HandshakeOwner(Protocol):
    """Who a handshake reports to, on the same loop."""

    def admit(self, handshake: Handshake) -> None:
        """The connection is there; it may be dropped at once."""
        ...

    def ended(self, handshake: Handshake) -> None:
        """The connection is closed, or has just been handed over."""
        ...

    def room_for(self, export_name: str) -> str | None:
        """Say why an export takes no further connection, or return None."""
        ...

    def hand_over(self, handed: HandedOver) -> None:
        """Bring a connection that is through its handshake to its volume."""
        ...


class Handshake(asyncio.Protocol):
    """Negotiates, then hands the connection over to the volume's loop."""

    def __init__(
        self, exports: ExportTable, limits: NbdLimits, owner: HandshakeOwner
    ) -> None:
        self._opening = _Opening(exports)
        self._limits = limits
        self._owner = owner
        self._negotiation = Negotiation(self._opening)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._agreed: Agreed | None = None
        self._peer = ""

    def close(self) -> None:
        """Drop the connection: its client has nothing to lose yet."""
        if self._transport is not None:
            self._transport.abort()

    def refuse(self, reason: str) -> None:
        """Drop the connection and leave one line in the log."""
        _log.warning("nbd_connection_refused", peer=self._peer, reason=reason)
        self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        self._peer = _peer(transport)
        self._owner.admit(self)
        if transport.is_closing():
            return
        connection = transport.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            prepare_tcp(connection)
        seconds = self._limits.handshake_seconds
        self._deadline = asyncio.get_running_loop().call_later(
            seconds, self.refuse, f"no export chosen within {seconds:g} seconds"
        )
        transport.write(self._negotiation.take_output())

    def data_received(self, data: bytes) -> None:
        if self._negotiation.outcome is not None:
            return
        self._negotiation.receive(data)
        outcome = self._negotiation.outcome
        assert self._transport is not None
        if isinstance(outcome, Agreed):
            full = self._owner.room_for(outcome.export_name)
            if full is not None:
                self.refuse(full)
                return
        output = self._negotiation.take_output()
        if output:
            self._transport.write(output)
        if outcome is not None:
            self._settle(self._transport, outcome)

    def resume_writing(self) -> None:
        # Reached only while the hand-over waits: nothing else minds a full buffer.
        # Not at once: uvloop is still within its own sending.
        if self._agreed is not None:
            asyncio.get_running_loop().call_soon(self._hand_over)

    def connection_lost(self, _error: Exception | None) -> None:
        self._stop_deadline()
        self._opening.release()
        self._owner.ended(self)

    def _settle(self, transport: asyncio.Transport, outcome: Outcome) -> None:
        match outcome:
            case Ended(reason, refused):
                self._stop_deadline()
                if refused:
                    _log.warning(
                        "nbd_connection_refused", peer=self._peer, reason=reason
                    )
                transport.close()
            case Agreed():
                self._agreed = outcome
                transport.pause_reading()
                # What is still unsent lies in this transport. With a limit of
                # nothing it tells when it is empty; the deadline goes on meanwhile.
                transport.set_write_buffer_limits(0)
                if transport.get_write_buffer_size() == 0:
                    self._hand_over()

    def _hand_over(self) -> None:
        """Let go of the connection, with nothing unsent and nobody reading it."""
        assert self._transport is not None
        assert self._agreed is not None
        agreed, self._agreed = self._agreed, None
        if self._transport.is_closing():
            return
        self._stop_deadline()
        # A second descriptor of the same connection: closing the transport's own
        # neither shuts the connection down nor loses what has not been read.
        descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
        connection = socket.socket(fileno=descriptor)
        connection.setblocking(False)
        handed = HandedOver(
            connection,
            self._opening.take(agreed.export_name),
            agreed,
            self._negotiation.trailing,
            self._peer,
        )
        self._transport.abort()
        self._owner.hand_over(handed)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _peer(transport: asyncio.Transport) -> str:
    """Name the other end for the log; a Unix peer has no name of its own."""
    address = transport.get_extra_info("peername")
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    return "unix"
