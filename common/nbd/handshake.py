"""A connection from accept to transmission: the shell around `Negotiation`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import structlog

from common.nbd.addresses import prepare_tcp
from common.nbd.limits import NbdLimits
from common.nbd.negotiation import Agreed, Ended, ExportFacts, Negotiation, Outcome
from common.nbd.transmission import Transmission
from common.ports import HostVolume

_log = structlog.get_logger(__name__)


class ExportTable(Protocol):
    """The exports of a daemon. Both methods answer at once."""

    def names(self) -> list[tuple[str, str]]:
        """Return (name, description) of each export that LIST shows."""
        ...

    def open(self, name: str) -> HostVolume | None:
        """Open an export, or return None if there is no such name.

        The opening stays as it is (size, recovery point) until its `release`,
        which is called exactly once.
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
            volume.release()


class Handshake(asyncio.Protocol):
    """Negotiates, then puts a `Transmission` in its own place.

    `admit` is called when the connection is there, and may drop it. After that
    `ended` is called once: with the transmission, or with None when the connection
    is closed without one.
    """

    def __init__(
        self,
        exports: ExportTable,
        limits: NbdLimits,
        admit: Callable[[Handshake], None],
        ended: Callable[[Handshake, Transmission | None], None],
        transmission_closed: Callable[[Transmission], None],
    ) -> None:
        self._opening = _Opening(exports)
        self._limits = limits
        self._admit = admit
        self._ended = ended
        self._transmission_closed = transmission_closed
        self._negotiation = Negotiation(self._opening)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
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
        self._admit(self)
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
        assert self._transport is not None
        output = self._negotiation.take_output()
        if output:
            self._transport.write(output)
        if self._negotiation.outcome is not None:
            self._settle(self._transport, self._negotiation.outcome)

    def connection_lost(self, _error: Exception | None) -> None:
        self._stop_deadline()
        self._opening.release()
        self._ended(self, None)

    def _settle(self, transport: asyncio.Transport, outcome: Outcome) -> None:
        self._stop_deadline()
        match outcome:
            case Ended(reason, refused):
                if refused:
                    _log.warning(
                        "nbd_connection_refused", peer=self._peer, reason=reason
                    )
                transport.close()
            case Agreed():
                self._transmit(transport, outcome)

    def _transmit(self, transport: asyncio.Transport, agreed: Agreed) -> None:
        # Paused while the protocol changes: the transport asks a protocol how it
        # wants to be fed only when reading starts.
        transport.pause_reading()
        transmission = Transmission(
            transport,
            self._opening.take(agreed.export_name),
            agreed,
            self._limits,
            self._transmission_closed,
            peer=self._peer,
        )
        transport.set_protocol(transmission)
        self._ended(self, transmission)
        transmission.start(self._negotiation.trailing)

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
