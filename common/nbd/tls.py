"""TLS for NBD clients: certificates in files, and whom a client's names.

A listen address either demands TLS of every client or has none of it: were it the
client's choice, whoever sits in between could choose for it.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from common.certificates import (
    EXPIRY_WARNING_SECONDS,
    TlsFiles,
    common_names,
    dns_names,
    load,
    own_certificate,
)

_log = structlog.get_logger(__name__)

SHUTDOWN_SECONDS: Final = 5.0
"""How long a client may take to say goodbye before its connection is aborted."""


class TlsServer:
    """The context that new connections are encrypted with."""

    def __init__(self, files: TlsFiles) -> None:
        """Raise `ConfigError` if the files do not make a working server."""
        self._files = files
        self.context = make_context(files)

    def prepare(self, files: TlsFiles | None = None) -> Callable[[], None]:
        """Read these files, or the same again; return what puts them into use.

        That holds for connections to come. Raises `ConfigError`; blocks.
        """
        found = files or self._files
        context = make_context(found)

        def commit() -> None:
            self._files, self.context = found, context

        return commit


def certificate_names(told: dict[str, Any] | None) -> frozenset[str]:
    """Return the common names and DNS names of a verified certificate.

    `told` is what `ssl.SSLSocket.getpeercert` returns.
    """
    return common_names(told) | dns_names(told) if told else frozenset()


def make_context(files: TlsFiles) -> ssl.SSLContext:
    """Read the files. Raises `ConfigError`; may block for a moment."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session would skip the check of the client's certificate.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    load(context, files, "nbd.tls")
    if files.verify_clients:
        context.verify_mode = ssl.CERT_REQUIRED
    _warn_of_expiry(files)
    return context


def _warn_of_expiry(files: TlsFiles) -> None:
    """Leave a line in the log if clients refuse, or soon will, our certificate."""
    try:
        own = own_certificate(files, is_server=True)
    except ssl.SSLCertVerificationError as error:
        _log.warning(
            "nbd_certificate_unusable", file=files.cert, reason=error.verify_message
        )
        return
    left_seconds = own.seconds_left(time.time_ns())
    if left_seconds <= 0:
        _log.warning(
            "nbd_certificate_unusable",
            file=files.cert,
            reason="certificate has expired",
        )
    elif left_seconds < EXPIRY_WARNING_SECONDS:
        _log.warning(
            "nbd_certificate_expires",
            file=files.cert,
            expires=own.expires,
        )
