"""Certificates in PEM files: read, checked, and what they say; for NBD and replication.

Every complaint names the config key, the file and the remedy. Nothing here logs: a
daemon that finds a certificate expiring says so in its own words.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.errors import ConfigError

KEY_MODE_FORBIDDEN: Final = 0o077
"""Whoever else may read a key may pretend to be this daemon."""

CREDENTIAL_MODE_FORBIDDEN: Final = 0o007
"""systemd lists who may read a credential (acl(5)): the group's bits show the mask."""

CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
"""Where systemd puts what LoadCredential= names, for this service alone."""

KEYS_FOLDER: Final = "/etc/farshore/keys"
KEYS_PREFIX: Final = "keys_"
"""The units hand the files of that folder over under names that begin so."""

FILE_BYTES_MAX: Final = 1 << 20
"""A chain or a bundle of CAs is a few KiB; more is another kind of file."""

EXPIRY_WARNING_SECONDS: Final = 30 * 86400
HANDSHAKE_ROUNDS_MAX: Final = 10
_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME of <openssl/x509_vfy.h>; ssl has no name for it."""
_REVOCATION_LIST: Final = b"-----BEGIN X509 CRL-----"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. `verify_clients` is a server's."""

    ca: str
    cert: str
    key: str
    verify_clients: bool = True


def credential_path(
    value: str, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Return where the credential is that "$CREDENTIALS_DIRECTORY/NAME" names.

    Not run by systemd there is no such folder: then it is the file that the units take
    it from, for root, who alone may read it, and else the text as it is, so that
    a config can be checked. None: the text names no credential. Raises ValueError if
    it leads out of the folder.
    """
    prefix = f"${CREDENTIALS_VARIABLE}/"
    if not value.startswith(prefix):
        return None
    name = value.removeprefix(prefix)
    if not name or "/" in name or name in {".", ".."}:
        raise ValueError(f"{value!r}: after {prefix} comes the name of one credential")
    folder = environment.get(CREDENTIALS_VARIABLE)
    if folder is not None:
        return f"{folder}/{name}"
    source = f"{KEYS_FOLDER}/{name.removeprefix(KEYS_PREFIX)}"
    return source if os.access(source, os.R_OK) else value


def _forbidden_mode(path: str) -> int:
    folder = os.environ.get(CREDENTIALS_VARIABLE)
    is_credential = folder is not None and str(Path(path).parent) == folder
    return CREDENTIAL_MODE_FORBIDDEN if is_credential else KEY_MODE_FORBIDDEN


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a verified certificate says: its DNS names, and until when it is valid."""

    names: frozenset[str]
    expires_ns: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Certificate:
        """Take it from what `ssl.SSLObject.getpeercert` returns."""
        return cls(dns_names(told), expiry_ns(told))

    @property
    def expires(self) -> str:
        """Return the end of its time as people read it, in UTC."""
        return time.strftime(
            "%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.expires_ns // 10**9)
        )

    def seconds_left(self, now_ns: int) -> float:
        """Return for how long it stays valid; negative once it is not."""
        return (self.expires_ns - now_ns) / 1e9


def dns_names(told: Mapping[str, Any]) -> frozenset[str]:
    """Return the DNS names among the subject alternative names, as they are written."""
    names = told.get("subjectAltName", ())
    return frozenset(value for kind, value in names if kind == "DNS")


def common_names(told: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(
        value
        for part in told.get("subject", ())
        for key, value in part
        if key == "commonName"
    )


def expiry_ns(told: Mapping[str, Any]) -> int:
    """Return the last moment of its validity, in nanoseconds since 1970 (UTC)."""
    return ssl.cert_time_to_seconds(str(told["notAfter"])) * 1_000_000_000


def load(context: ssl.SSLContext, files: TlsFiles, table: str) -> None:
    """Have `context` use these files; `table` is the config key that names them.

    A revocation list in the file of the CA is obeyed for the peer's certificate.
    Raises `ConfigError` if they are not a CA, a certificate and its own key, or if
    others than its owner may read the key.
    """
    found = {
        key: _read(f"{table}.{key}", path)
        for key, path in (("ca", files.ca), ("cert", files.cert), ("key", files.key))
    }
    if Path(files.key).stat().st_mode & _forbidden_mode(files.key):
        raise ConfigError(
            f"{table}.key: others than its owner may use {files.key}: "
            f"chmod 600 {files.key}, and replace the key if they may have read it"
        )
    try:
        # With a password given, OpenSSL does not ask for one on the terminal.
        context.load_cert_chain(files.cert, files.key, password=lambda: "")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ConfigError(
            f"{table}.cert, {table}.key: {files.cert} and {files.key} are not a "
            f"certificate and its own unencrypted key in PEM form ({_why(error)}): "
            "name the right files"
        ) from None
    try:
        context.load_verify_locations(cafile=files.ca)
    except OSError as error:
        raise ConfigError(
            f"{table}.ca: {files.ca} holds no certificate in PEM form "
            f"({_why(error)}): name the file of the peers' CA"
        ) from None
    if _REVOCATION_LIST in found["ca"]:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _read(key: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"{key}: cannot read {path} ({error.strerror}): {_remedy(path)}"
        ) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(
            f"{key}: {path} is larger than {FILE_BYTES_MAX} bytes, no file of "
            "certificates: name the right file"
        )
    return data


def _remedy(path: str) -> str:
    if path.startswith("$"):
        return "only a systemd unit with LoadCredential= has it, and root: be root"
    return "create it, or name the right file"


def _why(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)


def own_certificate(files: TlsFiles, *, is_server: bool) -> Certificate:
    """Return what our own certificate says, also once its time is over.

    The standard library takes certificates apart only for who verifies them, so two
    ends shake hands in memory, and the other one trusts exactly this certificate.
    Raises `ssl.SSLCertVerificationError` if it may not be used for that role.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    server.load_cert_chain(files.cert, files.key, password=lambda: "")
    judge = client
    if not is_server:
        client.verify_mode = ssl.CERT_NONE
        client.load_cert_chain(files.cert, files.key, password=lambda: "")
        server.verify_mode = ssl.CERT_REQUIRED
        judge = server
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    judge.verify_flags |= _NO_CHECK_TIME
    judge.load_verify_locations(cafile=files.cert)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(HANDSHAKE_ROUNDS_MAX):
        for end in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    told = (theirs if is_server else ours).getpeercert()
    assert told is not None
    return Certificate.of(told)
