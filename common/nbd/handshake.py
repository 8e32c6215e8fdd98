"""A connection from accept to its hand-over: the shell around `Negotiation`."""

from __future__ import annotations

import asyncio
import socket
from typing import Final, Protocol, cast

import structlog

from common.nbd.access import AccessRule, Caller
from common.nbd.addresses import prepare_tcp
from common.nbd.connections import HandedOver
from common.nbd.detaching import detach
from common.nbd.limits import NbdLimits
from common.nbd.liveness import Ask, ask_socket
from common.nbd.negotiation import Negotiation, TlsMode
from common.nbd.opening import ExportTable, Opening, caller_of
from common.nbd.outcome import Agreed, Ended, Outcome
from common.nbd.relay import Relay
from common.nbd.tls import SHUTDOWN_SECONDS, TlsServer, certificate_names

_log = structlog.get_logger(__name__)

BELOW_TLS_BYTES_MAX: Final = 64 << 10
"""Loops' own mark above which a transport tells TLS to wait."""


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
        self._opening = Opening(exports, rules)
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
        self._opening.caller = caller_of(connection)
        if connection.family != socket.AF_UNIX:
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
            connection = detach(transport)
        handed = HandedOver(
            connection,
            self._opening.take(agreed.export_name),
            agreed,
            self._negotiation.trailing,
            self._peer,
            ask=ask,
        )
        self._owner.hand_over(handed, relay)
        self._end()

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
