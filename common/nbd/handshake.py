"""A connection from accept to its hand-over: the shell around `Negotiation`."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final, Protocol, cast

import structlog

from common.nbd.access import ANYBODY, Access, AccessRule, Caller, access_to
from common.nbd.addresses import prepare_tcp
from common.nbd.connections import HandedOver, release_where_it_lives
from common.nbd.export_facts import ExportFacts
from common.nbd.limits import NbdLimits
from common.nbd.liveness import Ask, ask_socket
from common.nbd.negotiation import Negotiation, TlsMode
from common.nbd.outcome import Agreed, Ended, Outcome
from common.nbd.relay import Relay
from common.nbd.tls import SHUTDOWN_SECONDS, TlsServer, certificate_names
from common.ports import HostVolume

_log = structlog.get_logger(__name__)

BELOW_TLS_BYTES_MAX: Final = 64 << 10
"""Loops' own mark above which a transport tells TLS to wait."""


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


class _ReadOnlyOpening:
    """A volume for a caller who may only read it.

    Transmission refuses writes by `read_only`; requests go straight to the volume.
    """

    def __init__(self, volume: HostVolume) -> None:
        self.loop = volume.loop
        self.size_bytes = volume.size_bytes
        self.read_only = True
        self.description = volume.description
        self.preferred_block_bytes = volume.preferred_block_bytes
        self.contexts = volume.contexts
        self.fast_zero = False
        self.submit = volume.submit
        self.release = volume.release


class _Opening:
    """The export a handshake talks about, held open from INFO to GO.

    One opening serves both, so that GO can not tell anything else than INFO did
    and transmission serves exactly what was told, whatever commits meanwhile.
    """

    def __init__(self, exports: ExportTable, rules: tuple[AccessRule, ...]) -> None:
        self.caller = ANYBODY
        self._exports = exports
        self._rules = rules
        self._name = ""
        self._volume: HostVolume | None = None

    def names(self) -> Sequence[tuple[str, str]]:
        return [
            (name, description)
            for name, description in self._exports.names()
            if access_to(self._rules, name, self.caller) is not None
        ]

    def facts(self, name: str) -> ExportFacts | None:
        if self._volume is None or name != self._name:
            self.release()
            self._name, self._volume = name, self._open(name)
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

    def holds(self, name: str) -> bool:
        return self._volume is not None and self._name == name

    def release(self) -> None:
        volume, self._volume = self._volume, None
        if volume is not None:
            release_where_it_lives(volume)

    def _open(self, name: str) -> HostVolume | None:
        access = access_to(self._rules, name, self.caller)
        volume = None if access is None else self._exports.open(name)
        if volume is None or access is Access.READ_WRITE or volume.read_only:
            return volume
        return _ReadOnlyOpening(volume)


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

    def hand_over(self, handed: HandedOver, relay: Relay | None) -> None:
        """Bring a connection that is through its handshake to its volume.

        `relay` carries it there from TLS, which stays on this loop.
        """
        ...

    def relay_ended(self, relay: Relay) -> None: ...


class Handshake(asyncio.Protocol):
    """Negotiates, then hands the connection over to the volume's loop."""

    def __init__(
        self,
        exports: ExportTable,
        limits: NbdLimits,
        owner: HandshakeOwner,
        *,
        tls: TlsServer | None = None,
        rules: tuple[AccessRule, ...] = (),
    ) -> None:
        """`tls` is demanded if given, and else not to be had."""
        self._opening = _Opening(exports, rules)
        self._limits = limits
        self._owner = owner
        self._tls = tls
        mode = TlsMode.OFF if tls is None else TlsMode.REQUIRED
        self._negotiation = Negotiation(self._opening, mode, limits)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._starting_tls: asyncio.Task[None] | None = None
        self._tls_reads = False
        self._below_tls: asyncio.Transport | None = None
        # Decrypted before we were told that TLS is there: a read or two.
        self._decrypted_early = b""
        self._encrypted = False
        self._agreed: Agreed | None = None
        self._peer = ""
        self._is_over = False

    def holds(self, export_name: str) -> bool:
        """Tell whether it keeps this export open for its client."""
        return self._opening.holds(export_name)

    def close(self) -> None:
        """Drop the connection: its client has nothing to lose yet."""
        if self._transport is not None:
            self._transport.abort()
        if self._starting_tls is not None:
            self._starting_tls.cancel()

    def shut_down(self) -> None:
        """Tell the client, whatever it asks from now on, that the server goes.

        One that has chosen its export is dropped: it lost a connection, and
        connects again.
        """
        self._negotiation.shut_down()
        if self._agreed is not None:
            self.close()

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
        if connection.family == socket.AF_UNIX:
            self._opening.caller = _unix_caller(connection)
        else:
            prepare_tcp(connection, self._limits)
        seconds = self._limits.handshake_seconds
        self._deadline = asyncio.get_running_loop().call_later(
            seconds, self.refuse, f"no export chosen within {seconds:g} seconds"
        )
        transport.write(self._negotiation.take_output())

    def data_received(self, data: bytes) -> None:
        if self._negotiation.outcome is not None:
            return
        if self._tls_reads and not self._encrypted:
            self._decrypted_early += data
            return
        self._negotiation.receive(data)
        outcome = self._negotiation.outcome
        assert self._transport is not None
        if isinstance(outcome, Agreed):
            full = self._owner.room_for(outcome.export_name)
            if full is not None:
                self.refuse(full)
                return
        if self._negotiation.wants_tls:
            # Whatever comes after the answer is for TLS, and it alone reads it.
            self._transport.pause_reading()
        output = self._negotiation.take_output()
        if output:
            self._transport.write(output)
        if self._negotiation.wants_tls:
            loop = asyncio.get_running_loop()
            self._starting_tls = loop.create_task(self._start_tls(self._transport))
        elif outcome is not None:
            self._settle(self._transport, outcome)

    def resume_writing(self) -> None:
        # Reached only while the hand-over waits: nothing else minds a full buffer.
        # Not at once: uvloop is still within its own sending.
        if self._agreed is not None:
            asyncio.get_running_loop().call_soon(self._hand_over_once_sent)

    def connection_lost(self, _error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        """Give up what is held. TLS that fails does not always tell its protocol."""
        self._stop_deadline()
        self._opening.release()
        if not self._is_over:
            self._is_over = True
            self._owner.ended(self)

    async def _start_tls(self, plain: asyncio.Transport) -> None:
        assert self._tls is not None
        assert self._deadline is not None
        loop = asyncio.get_running_loop()
        # From here on, with no turn of the loop between, TLS is the only reader.
        self._tls_reads = True
        self._below_tls = plain
        try:
            encrypted = await loop.start_tls(
                plain,
                self,
                self._tls.context,
                server_side=True,
                # The handshake's own deadline ends this earlier.
                ssl_handshake_timeout=self._limits.handshake_seconds,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except OSError as error:  # also what ssl raises
            self._starting_tls = None
            reason = getattr(error, "reason", None) or error
            self.refuse(f"TLS failed: {reason}")
        else:
            self._starting_tls = None
            # None where the connection was aborted meanwhile.
            if encrypted is not None and not plain.is_closing():
                self._go_on_encrypted(encrypted)
                return
        finally:
            if not self._encrypted:
                # A transport whose handshake failed keeps what it holds if it is
                # not aborted.
                plain.abort()
                self._end()

    def _go_on_encrypted(self, transport: asyncio.Transport) -> None:
        self._encrypted = True
        self._transport = transport
        certificate = transport.get_extra_info("ssl_object").getpeercert()
        names = certificate_names(certificate)
        self._opening.caller = Caller(certificate_names=names)
        self._negotiation.tls_started()
        if self._decrypted_early:
            self.data_received(self._decrypted_early)

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
                self._hand_over_once_sent()

    def _hand_over_once_sent(self) -> None:
        """Hand over, or wait until the client has taken our answers.

        What is still unsent lies in our transport. With a limit of nothing it tells
        when it is empty; the deadline goes on meanwhile. (A relay could take it
        along, but nobody would end it.)
        """
        transport = self._transport
        if self._agreed is None or transport is None or transport.is_closing():
            return
        if self._is_sent(transport):
            self._hand_over(transport, self._agreed)
        else:
            # Again if it was too early: TLS tells also of what it passed on.
            transport.set_write_buffer_limits(0)

    def _is_sent(self, transport: asyncio.Transport) -> bool:
        """Tell whether the client took our answers, but for what TLS calls little.

        TLS passes all it has to the transport below, and is told of what is too
        much there.
        """
        below = (
            0 if self._below_tls is None else self._below_tls.get_write_buffer_size()
        )
        return transport.get_write_buffer_size() == 0 and below <= BELOW_TLS_BYTES_MAX

    def _hand_over(self, transport: asyncio.Transport, agreed: Agreed) -> None:
        """Let go of the connection, with nothing unsent and nobody reading it."""
        self._agreed = None
        self._stop_deadline()
        relay: Relay | None = None
        ask: Ask = ask_socket
        if self._encrypted:
            assert self._below_tls is not None
            relay = Relay(transport, self._below_tls, self._owner.relay_ended)
            ask = relay.ask
            connection = relay.theirs
        else:
            # A second descriptor of the same connection: closing the transport's
            # own neither shuts it down nor loses what has not been read.
            descriptor = os.dup(transport.get_extra_info("socket").fileno())
            connection = socket.socket(fileno=descriptor)
            connection.setblocking(False)
            transport.abort()
        handed = HandedOver(
            connection,
            self._opening.take(agreed.export_name),
            agreed,
            self._negotiation.trailing,
            self._peer,
            ask,
        )
        self._owner.hand_over(handed, relay)
        self._end()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _unix_caller(connection: socket.socket) -> Caller:
    """Return who the kernel says is at the other end."""
    size = struct.calcsize("3i")
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, gid = struct.unpack("3i", told)
    return Caller(uid=uid, gid=gid)


def _peer(transport: asyncio.Transport) -> str:
    """Name the other end for the log; a Unix peer has no name of its own."""
    address = transport.get_extra_info("peername")
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    return "unix"
