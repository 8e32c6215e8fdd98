"""Certificates for a test's daemons and clients, made afresh each time.

Folders have the file names that libnbd, nbdkit and QEMU look for:
ca-cert.pem, and client-cert.pem with client-key.pem.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme

SERVER_NAMES = ("localhost", "127.0.0.1")
KEY_MODE = 0o600
"""Keys that others may read are refused."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate with its chain, its key, and the authority to be trusted."""

    certificate: Path
    key: Path
    authority: Path


class Authority:
    """One that signs; two of them know nothing of each other."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._authority = trustme.CA()
        self.certificate = directory / "ca-cert.pem"
        self._authority.cert_pem.write_to_path(str(self.certificate))

    def server(self, *names: str, expired_at: datetime | None = None) -> KeyPair:
        """Issue a certificate for the host names; those of the loopback by default."""
        return self._issue("server", names or SERVER_NAMES, None, expired_at)

    def client(self, name: str, *, expired_at: datetime | None = None) -> KeyPair:
        """Issue a certificate whose common and alternative names are `name`.

        The folder of the files is what clients take as their tls-certificates.
        """
        return self._issue("client", (name,), name, expired_at)

    def stranger(self) -> Path:
        """Return a folder with the authority alone: a client without certificate."""
        return self._folder("stranger")

    def _folder(self, name: str) -> Path:
        folder = self._directory / name
        folder.mkdir()
        self._authority.cert_pem.write_to_path(str(folder / "ca-cert.pem"))
        return folder

    def _issue(
        self,
        role: str,
        names: tuple[str, ...],
        common_name: str | None,
        expired_at: datetime | None,
    ) -> KeyPair:
        folder = self._folder(f"{role}-{names[0]}")
        issued = self._authority.issue_cert(
            *names, common_name=common_name, not_after=expired_at
        )
        certificate, key = folder / f"{role}-cert.pem", folder / f"{role}-key.pem"
        certificate.write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
        key.touch(KEY_MODE)
        issued.private_key_pem.write_to_path(str(key))
        return KeyPair(certificate, key, folder / "ca-cert.pem")
