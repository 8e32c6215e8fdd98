"""What a site shows to the other one, and whom it takes for it.

Replication speaks TLS 1.3 alone. Nothing of an earlier session is ever taken up
again: each connection shows its certificates anew, so that a name or a CA that no
longer counts ends with the next connection (CVE-2025-23419 is what resumption did to
that elsewhere).

Who a peer is, is one thing only: a DNS name among the subject alternative names of
its certificate, letter by letter as `peer` has it. No wildcards, no common name, no
address.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from common.certificates import Certificate, TlsFiles, load, own_certificate
from common.errors import ConfigError

SERVER_NAME: Final = "farshore"
"""Sent in the clear by whoever connects: the same for all, it tells nobody's name."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """One role's context and own certificate, as they were read once."""

    context: ssl.SSLContext
    own: Certificate
    table: str
    """The config key that names the files, as in "group[orders].link.tls"."""
    cert_path: str
    ca_path: str
    is_server: bool

    @classmethod
    def read(cls, files: TlsFiles, table: str, *, is_server: bool) -> Credentials:
        """Read the files; raises `ConfigError`. May block for a moment."""
        protocol = ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(protocol)
        # The name is compared with `peer`, not with the address that was dialled.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.options |= ssl.OP_NO_TICKET
        if is_server:
            context.num_tickets = 0
        load(context, files, table)
        return cls(
            context,
            _own(files, table, is_server=is_server),
            table,
            files.cert,
            files.ca,
            is_server,
        )


def _own(files: TlsFiles, table: str, *, is_server: bool) -> Certificate:
    """Return our certificate. One that has expired is told of, not refused: a
    daemon serves its hosts whatever becomes of its link."""
    try:
        own = own_certificate(files, is_server=is_server)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", None) or error.reason
        raise ConfigError(
            f"{table}.cert: the other site would refuse {files.cert} ({why}): make one "
            "with extendedKeyUsage = serverAuth, clientAuth"
        ) from None
    if not own.names:
        raise ConfigError(
            f"{table}.cert: {files.cert} has no DNS name among its subject "
            "alternative names, and the other site knows this one by it: make one "
            "with subjectAltName = DNS:NAME of this site"
        )
    return own
