"""TLS 1.3 over any `ByteStream`, from its first byte.

The loops' own TLS is not used: it hands a connection over only when the handshake is
done, so that nobody counts or bounds those that never finish one; it forgets the
reason of a refusal; and it reads ahead. Here OpenSSL works in memory between the
stream below and the reader above, a record at a time, and a frame is encrypted and
queued in one go: what the stream below promises of order and of small queues holds
for what is above as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from typing import Final

from common.certificates import Certificate
from common.errors import ConnectionLostError, PeerRefusedError, ProtocolError
from common.ports import Buffer, ByteStream
from common.replication.credentials import SERVER_NAME, Credentials
from common.replication.session_messages import GoodbyeReason

RECORD_BYTES_MAX: Final = 16 << 10
"""RFC 8446 5.1; asking OpenSSL for more gives no more."""

RECEIVE_BYTES: Final = 256 << 10
"""Read from below at once: bounds what lies undecrypted beside a part of a record."""

HANDSHAKE_BYTES_MAX: Final = 64 << 10
"""What a peer may send before it has proved who it is; chains have a few KiB."""

JOINED_BYTES_MAX: Final = 64 << 10
"""Small buffers are joined: each written alone would be a record of its own."""

FAREWELL_SECONDS: Final = 1.0
FAREWELL_BYTES_MAX: Final = 64 << 10
"""A refused peer has so long to take the alert that says why, while what it still
sends is thrown away: closing at once would reset the connection under the alert."""

HANDSHAKE_RECORD: Final = 22
ALERT_RECORD: Final = 21
"""First byte of a record (RFC 8446 5.1): what else comes first is no TLS."""

TLS_DEMANDED: Final = b"\x15\x03\x03\x00\x02\x02\x46"
"""A fatal alert, protocol_version, for who does not speak TLS (RFC 8446 6.2)."""


class TlsStream:
    """An encrypted stream; made by `secure`. One reader, any number of writers."""

    def __init__(
        self, below: ByteStream, tls: ssl.SSLObject, bios: _Bios, peer: Certificate
    ) -> None:
        self.peer = below.peer
        self.certificate = peer
        """The peer's, verified."""
        self._below = below
        self._tls = tls
        self._bios = bios
        self._ended = False
        self._closing = False

    async def read(self, limit_bytes: int) -> bytes:
        """Return 1..limit bytes; `b""` once the peer has ended TLS in order.

        A stream that ends without that was cut off, by a fault or by somebody:
        `ConnectionLostError`.
        """
        assert limit_bytes > 0
        while not self._ended:
            data = self._decrypt(limit_bytes)
            if self._bios.to_peer.pending:  # an answer that TLS itself asks for
                await self._below.write([self._bios.to_peer.read()])
            if data:
                return data
            if not self._ended:
                received = await self._below.read(RECEIVE_BYTES)
                if not received:
                    raise ConnectionLostError(
                        f"{self.peer}: the connection was cut off (no end of TLS)"
                    )
                self._bios.from_peer.write(received)
        return b""

    def _decrypt(self, limit_bytes: int) -> bytes:
        records: list[bytes] = []
        while limit_bytes > 0:
            try:
                data = self._tls.read(min(limit_bytes, RECORD_BYTES_MAX))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                if records:
                    break  # comes again with the next call, after what was good
                raise _translated(error, self.peer) from None
            if not data:
                self._ended = True
                break
            records.append(data)
            limit_bytes -= len(data)
        return records[0] if len(records) == 1 else b"".join(records)

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """Encrypt and queue at once, in order and unbroken; wait while the peer is
        slow."""
        if self._closing:
            raise ConnectionLostError(f"{self.peer}: closed")
        try:
            for piece in _pieces(buffers):
                self._encrypt(piece)
        except ssl.SSLError as error:
            raise ConnectionLostError(f"{self.peer}: TLS: {error.reason}") from None
        await self._below.write([self._bios.to_peer.read()])

    def unacknowledged_bytes(self) -> int:
        """Return what is on its way, encrypted."""
        return self._below.unacknowledged_bytes()

    def _encrypt(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:  # ends: with memory below, OpenSSL takes some each time
            view = view[self._tls.write(view) :]

    async def close(self) -> None:
        """End TLS in order, then the stream below, which bounds how long that takes."""
        self._closing = True
        # The peer's own end has not come yet, or TLS has failed before.
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()
        try:
            if self._bios.to_peer.pending:
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._below.write([self._bios.to_peer.read()])
        except (ConnectionLostError, TimeoutError):
            self._below.abort()
        await self._below.close()

    def abort(self) -> None:
        """Drop the connection now. The peer sees that it was cut off."""
        self._closing = True
        self._below.abort()


class _Bios:
    """The memory between OpenSSL and the stream below."""

    def __init__(self) -> None:
        self.from_peer = ssl.MemoryBIO()
        self.to_peer = ssl.MemoryBIO()


async def secure(below: ByteStream, credentials: Credentials) -> TlsStream:
    """Shake hands over a stream just opened; the caller bounds the time.

    The peer is then somebody whom our CA vouches for; whether it is the right one is
    for the caller to say, by `certificate`. Raises `PeerRefusedError` if one side does
    not accept the other's certificate (as far as this side can know: who connects
    learns it from what it reads next), `ProtocolError`, `ConnectionLostError`; and
    then the stream has been dropped.
    """
    try:
        return await _shake_hands(below, credentials)
    except BaseException:
        below.abort()
        raise


async def _shake_hands(below: ByteStream, credentials: Credentials) -> TlsStream:
    bios = _Bios()
    received_bytes = 0
    if credentials.is_server:
        # Until a client has said something it costs nothing but its socket.
        received_bytes = await _receive(below, bios, received_bytes)
    tls = credentials.context.wrap_bio(
        bios.from_peer,
        bios.to_peer,
        server_side=credentials.is_server,
        server_hostname=None if credentials.is_server else SERVER_NAME,
    )
    while True:  # ends by what may be received
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            await _flush(below, bios)
            received_bytes = await _receive(below, bios, received_bytes)
        except ssl.SSLError as error:
            if "_ALERT_" not in (error.reason or ""):  # who sent one has gone
                await _say_why(below, bios)
            raise _handshake_failure(error, below.peer, credentials) from None
    await _flush(below, bios)
    told = tls.getpeercert()
    assert told, "TLS demands a certificate of both"
    assert tls.version() == "TLSv1.3"
    if tls.session_reused:
        raise ProtocolError(f"{below.peer}: took up an earlier session of TLS")
    return TlsStream(below, tls, bios, Certificate.of(told))


async def _receive(below: ByteStream, bios: _Bios, received_bytes: int) -> int:
    """Receive more of the handshake; return how much of it there is now."""
    if received_bytes >= HANDSHAKE_BYTES_MAX:
        raise ProtocolError(
            f"{below.peer}: a TLS handshake of more than {HANDSHAKE_BYTES_MAX} bytes"
        )
    # Little at a time: what follows the handshake is data, and does not count.
    data = await below.read(RECORD_BYTES_MAX)
    if not data:
        raise ConnectionLostError(
            f"{below.peer}: the connection ended within the TLS handshake; the other "
            "site's log says why, if it refused this one; it may also have no `tls`"
        )
    if not received_bytes and data[0] not in {HANDSHAKE_RECORD, ALERT_RECORD}:
        bios.to_peer.write(TLS_DEMANDED)
        await _say_why(below, bios)
        raise ProtocolError(
            f"{below.peer}: sends something else than TLS: give the other site `tls` "
            "as well, or both allow_plaintext_replication = true"
        )
    bios.from_peer.write(data)
    return received_bytes + len(data)


async def _flush(below: ByteStream, bios: _Bios) -> None:
    if bios.to_peer.pending:
        await below.write([bios.to_peer.read()])


async def _say_why(below: ByteStream, bios: _Bios) -> None:
    """Send the alert and give the peer time to take it. Never raises."""
    left_bytes = FAREWELL_BYTES_MAX
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            await _flush(below, bios)
            while left_bytes > 0:
                data = await below.read(left_bytes)
                if not data:
                    return
                left_bytes -= len(data)
    except (ConnectionLostError, TimeoutError):
        return


def _handshake_failure(
    error: ssl.SSLError, peer: str, credentials: Credentials
) -> ProtocolError | PeerRefusedError | ConnectionLostError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return PeerRefusedError(
            GoodbyeReason.WRONG_PEER,
            f"{peer}: its certificate is refused here: {error.verify_message}; give it "
            f"one that {credentials.ca_path} ({credentials.table}.ca) vouches for and "
            "whose time is not over",
        )
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return PeerRefusedError(
            GoodbyeReason.WRONG_PEER, f"{peer}: showed no certificate"
        )
    return _translated(error, peer)


_ALERTS: Final = {
    "CERTIFICATE_EXPIRED": "it has expired, or the other site's clock is wrong",
    "CERTIFICATE_REVOKED": "it was revoked",
    "CERTIFICATE_REQUIRED": "it showed none",
    "CERTIFICATE_UNKNOWN": "the other site can not use it",
    "BAD_CERTIFICATE": "it is damaged or not yet valid",
    "UNSUPPORTED_CERTIFICATE": "it may not be used for this (extendedKeyUsage)",
    "UNKNOWN_CA": "the other site's `ca` does not vouch for it",
    "DECRYPT_ERROR": "its key does not fit",
}
"""Alerts about a certificate (RFC 8446 6.2), as OpenSSL's reasons end."""


def _translated(
    error: ssl.SSLError, peer: str
) -> ProtocolError | PeerRefusedError | ConnectionLostError:
    reason = error.reason or str(error)
    if "_ALERT_" in reason:
        for ending, meaning in _ALERTS.items():
            if reason.endswith(ending):
                return PeerRefusedError(
                    GoodbyeReason.WRONG_PEER,
                    f"{peer}: the other site refuses this one's certificate: "
                    f"{meaning}; renew `tls.cert` here or mend `tls.ca` there",
                )
        return ConnectionLostError(f"{peer}: the other site ended TLS: {reason}")
    return ProtocolError(f"{peer}: TLS failed: {reason}")


def _pieces(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Join neighbours that are small, leave what is large where it is."""
    pieces: list[Buffer] = []
    small: list[Buffer] = []
    small_bytes = 0
    for buffer in buffers:
        if small_bytes + len(buffer) > JOINED_BYTES_MAX:
            pieces.append(b"".join(small))
            small, small_bytes = [], 0
        if len(buffer) > JOINED_BYTES_MAX:
            pieces.append(buffer)
        else:
            small.append(buffer)
            small_bytes += len(buffer)
    pieces.append(b"".join(small))
    return [piece for piece in pieces if len(piece)]
