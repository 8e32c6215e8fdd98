"""Certificates for tests: a CA, a server, and clients good and bad, as PEM files.

A client's folder is laid out as libnbd and QEMU want theirs (`tls-certificates=`,
`tls-creds-x509,dir=`): ca-cert.pem, client-cert.pem, client-key.pem.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import trustme

from common.certificates import TlsFiles
from common.nbd.tls import TlsServer


class Certificates:
    """Files under one folder; nothing is made before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()

    def server_files(
        self, *, verify_clients: bool = True, expired: bool = False
    ) -> TlsFiles:
        folder = self._folder / "server"
        folder.mkdir(exist_ok=True)
        self._ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        issued = self._ca.issue_cert(
            "localhost", "127.0.0.1", "::1", not_after=_past() if expired else None
        )
        _write(issued, folder / "cert.pem", folder / "key.pem")
        return TlsFiles(
            ca=str(folder / "ca.pem"),
            cert=str(folder / "cert.pem"),
            key=str(folder / "key.pem"),
            verify_clients=verify_clients,
        )

    def server(self, *, verify_clients: bool = True) -> TlsServer:
        return TlsServer(self.server_files(verify_clients=verify_clients))

    def site(self, name: str, *, folder: str = "", **dates: dt.datetime) -> TlsFiles:
        """Return the files of a site for replication; `dates` are trustme's.

        Another `folder` makes another certificate of the same name.
        """
        return self._site(name, self._ca, folder or f"site-{name}", **dates)

    def site_of_other_ca(self, name: str) -> TlsFiles:
        """Return files that name our CA, and hold a certificate of another."""
        return self._site(name, trustme.CA(), f"strange-{name}")

    def _site(
        self, name: str, ca: trustme.CA, folder_name: str, **dates: dt.datetime
    ) -> TlsFiles:
        folder = self._folder / folder_name
        folder.mkdir(exist_ok=True, parents=True)
        self._ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        _write(ca.issue_cert(name, **dates), folder / "cert.pem", folder / "key.pem")
        files = (str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        return TlsFiles(*files)

    def client(self, name: str, *, expired: bool = False) -> Path:
        """Return the folder of a client whom our CA calls `name`."""
        issued = self._ca.issue_cert(
            name, common_name=name, not_after=_past() if expired else None
        )
        return self._client_folder(name, issued)

    def stranger(self, name: str = "stranger.test") -> Path:
        """Return the folder of a client with a certificate of another CA."""
        issued = trustme.CA().issue_cert(name, common_name=name)
        return self._client_folder(f"other-{name}", issued)

    def nameless(self) -> Path:
        """Return the folder of a client without any certificate."""
        return self._client_folder("nameless", None)

    def _client_folder(self, name: str, issued: trustme.LeafCert | None) -> Path:
        folder = self._folder / name
        folder.mkdir()
        self._ca.cert_pem.write_to_path(str(folder / "ca-cert.pem"))
        if issued is not None:
            _write(issued, folder / "client-cert.pem", folder / "client-key.pem")
        return folder


def _write(issued: trustme.LeafCert, cert: Path, key: Path) -> None:
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)


def _past() -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
