"""Certificates for tests: a CA, a server, and clients good and bad, as PEM files.

A client's folder is laid out as libnbd and QEMU want theirs (`tls-certificates=`,
`tls-creds-x509,dir=`): ca-cert.pem, client-cert.pem, client-key.pem.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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

    def made_for(self, name: str, usage: x509.ObjectIdentifier) -> TlsFiles:
        """Return a site's files whose certificate may only be used for one thing."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        certificate = (
            _builder(name, authority.subject, key.public_key())
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )
        return self._written(f"made-for-{usage.dotted_string}", certificate, key)

    def self_signed(self, name: str) -> TlsFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = _builder(name, subject, key.public_key()).sign(
            key, hashes.SHA256()
        )
        return self._written("self-signed", certificate, key)

    def revocation_list(self, revoked: TlsFiles) -> bytes:
        """Return our CA's list, in PEM form, with that certificate on it."""
        now = dt.datetime.now(dt.UTC)
        found = x509.load_pem_x509_certificate(Path(revoked.cert).read_bytes())
        authority = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        entry = x509.RevokedCertificateBuilder(found.serial_number, now).build()
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.subject)
            .last_update(now - dt.timedelta(hours=1))
            .next_update(now + dt.timedelta(days=1))
            .add_revoked_certificate(entry)
            .sign(self._ca_key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    @property
    def _ca_key(self) -> ec.EllipticCurvePrivateKey:
        pem = self._ca.private_key_pem.bytes()
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def _written(
        self,
        folder_name: str,
        certificate: x509.Certificate,
        private: ec.EllipticCurvePrivateKey,
    ) -> TlsFiles:
        folder = self._folder / folder_name
        folder.mkdir()
        self._ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        pem = serialization.Encoding.PEM
        (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
        key = folder / "key.pem"
        key.write_bytes(
            private.private_bytes(
                pem,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        key.chmod(0o600)
        return TlsFiles(str(folder / "ca.pem"), str(folder / "cert.pem"), str(key))

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


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=365))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
        )
    )


def _past() -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
