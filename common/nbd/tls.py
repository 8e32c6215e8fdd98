"""TLS for NBD clients: certificates in files, and whom a client's names.

A listen address either demands TLS of every client or has none of it: were it the
client's choice, whoever sits in between could choose for it.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from common.errors import ConfigError

_log = structlog.get_logger(__name__)

SHUTDOWN_SECONDS: Final = 5.0
"""How long a client may take to say goodbye before its connection is aborted."""
EXPIRY_WARNING_SECONDS: Final = 30 * 86400
KEY_MODE_FORBIDDEN: Final = 0o077
HANDSHAKE_ROUNDS_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files."""

    ca: str
    cert: str
    key: str
    verify_clients: bool = True


class TlsServer:
    """The context that new connections are encrypted with."""

    def __init__(self, files: TlsFiles) -> None:
        """Raise `ConfigError` if the files do not make a working server."""
        self._files = files
        self.context = _load(files)

    def reload(self) -> None:
        """Read the files again, for connections to come.

        Raises `ConfigError`, and then everything stays as it was.
        """
        self.context = _load(self._files)


def certificate_names(certificate: dict[str, Any] | None) -> frozenset[str]:
    """Return the common names and DNS names of a verified certificate.

    `certificate` is what `ssl.SSLSocket.getpeercert` returns.
    """
    if not certificate:
        return frozenset()
    subject = {
        value
        for part in certificate.get("subject", ())
        for key, value in part
        if key == "commonName"
    }
    names = certificate.get("subjectAltName", ())
    return frozenset(subject | {value for kind, value in names if kind == "DNS"})


def _load(files: TlsFiles) -> ssl.SSLContext:
    for key, path in (("ca", files.ca), ("cert", files.cert), ("key", files.key)):
        _check_readable(key, path)
    mode = Path(files.key).stat().st_mode
    if mode & KEY_MODE_FORBIDDEN:
        raise ConfigError(
            f"nbd.tls.key: others than its owner may use {files.key}: "
            f"chmod 600 {files.key}, and replace the key if they may have read it"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session would skip the check of the client's certificate.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    try:
        # With a password given, OpenSSL does not ask for one on the terminal.
        context.load_cert_chain(files.cert, files.key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"nbd.tls.cert, nbd.tls.key: {files.cert} and {files.key} are not a "
            f"certificate and its own unencrypted key in PEM form ({reason}): "
            "name the right files"
        ) from None
    try:
        context.load_verify_locations(cafile=files.ca)
    except ssl.SSLError as error:
        raise ConfigError(
            f"nbd.tls.ca: {files.ca} holds no certificate in PEM form "
            f"({error.reason}): name the file of the clients' CA"
        ) from None
    if files.verify_clients:
        context.verify_mode = ssl.CERT_REQUIRED
    _warn_of_expiry(context, files.cert)
    return context


def _check_readable(key: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"nbd.tls.{key}: cannot read {path} ({error.strerror}): create it, or "
            "name the right file"
        ) from None


def _warn_of_expiry(context: ssl.SSLContext, path: str) -> None:
    """Leave a line in the log if clients refuse, or soon will, our certificate."""
    try:
        expires = _expiry(context, path)
    except ssl.SSLCertVerificationError as error:
        _log.warning("nbd_certificate_unusable", file=path, reason=error.verify_message)
        return
    left = ssl.cert_time_to_seconds(expires) - time.time()
    if left < EXPIRY_WARNING_SECONDS:
        _log.warning("nbd_certificate_expires", file=path, expires=expires)


def _expiry(server: ssl.SSLContext, path: str) -> str:
    """Return the end of our certificate's time, as a client is told of it.

    The standard library takes certificates apart only for who verifies them, so
    the server shakes hands, in memory, with a client that trusts this one.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cafile=path)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for _ in range(HANDSHAKE_ROUNDS_MAX):
        try:
            theirs.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
        with contextlib.suppress(ssl.SSLWantReadError):
            ours.do_handshake()
    certificate = theirs.getpeercert()
    assert certificate is not None
    return str(certificate["notAfter"])
