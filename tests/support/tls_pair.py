"""A pair of sites whose primary demands TLS of every TCP client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.certificates import Certificates
from tests.support.sites import Pair, VolumeSpec, free_port, toml


class TlsPair(Pair):
    """A `Pair` that serves TLS at `tls_port` of the loopback as well."""

    def __init__(
        self, directory: Path, volumes: list[VolumeSpec], **options: Any
    ) -> None:
        folder = directory / "certificates"
        folder.mkdir()
        self.certificates = Certificates(folder)
        self.client_folder = self.certificates.client("host-1.test")
        """The files of a client that may come in."""
        self._server = self.certificates.server_files()
        self.tls_port = free_port()
        super().__init__(directory, volumes, **options)

    def primary_toml(self) -> str:
        also = f'listen = ["tls:127.0.0.1:{self.tls_port}", '
        text = super().primary_toml().replace("listen = [", also, 1)
        files = {
            "ca": self._server.ca,
            "cert": self._server.cert,
            "key": self._server.key,
        }
        return f"{text}[nbd.tls]\n{toml(files)}"

    def plain_uri(self, export: str) -> str:
        """Return the same address without TLS, which must not do."""
        return f"nbd://localhost:{self.tls_port}/{export}"

    def tls_uri(self, folder: Path | None = None) -> str:
        """Return the address for libnbd, with the certificates of a folder."""
        files = folder or self.client_folder
        host = f"nbds://localhost:{self.tls_port}"
        return f"{host}/g/v?tls-certificates={files}"

    def qemu_image(self, folder: Path | None = None) -> list[str]:
        """Return the options that name the same to qemu-img and qemu-io."""
        files = folder or self.client_folder
        credentials = f"tls-creds-x509,id=tls,dir={files},endpoint=client"
        server = {
            "host": "localhost",
            "port": self.tls_port,
            "export": "g/v",
            "tls-creds": "tls",
        }
        named = ",".join(f"file.{key}={value}" for key, value in server.items())
        image = f"driver=raw,file.driver=nbd,{named}"
        return ["--object", credentials, "--image-opts", image]
