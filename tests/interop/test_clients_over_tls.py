"""Every client over TLS with a certificate of its own, and those that have none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.attached import fuse_file, running
from tests.support.certificates import Certificates
from tests.support.client_commands import (
    MIB,
    SYSTEM_PYTHON,
    attempt,
    pattern,
    run,
    sparse_file,
)
from tests.support.sites import Pair, VolumeSpec

pytestmark = pytest.mark.needs_package("nbdinfo", "nbdcopy", "nbdkit", "qemu-io")

SIZE = 8 * MIB
LIBNBD_COMMANDS = Path(__file__).with_name("libnbd_commands.py")


class Secured:
    """Both sites, of which the primary demands TLS of every client over TCP."""

    def __init__(self, pair: Pair, certificates: Certificates) -> None:
        self.pair = pair
        self.certificates = certificates
        self.client_folder = certificates.client("host-1.test")
        """The files of a client that may come in."""

    @property
    def content(self) -> bytes:
        return self.pair.content("v")

    def plain_uri(self, export: str) -> str:
        """Return the same address without TLS, which must not do."""
        return f"nbd://localhost:{self.pair.tls_port}/{export}"

    def tls_uri(self, folder: Path | None = None) -> str:
        """Return the address for libnbd, with the certificates of a folder."""
        files = folder or self.client_folder
        host = f"nbds://localhost:{self.pair.tls_port}"
        return f"{host}/g/v?tls-certificates={files}"

    def qemu_image(self, folder: Path | None = None) -> list[str]:
        """Return the options that name the same to qemu-img and qemu-io."""
        files = folder or self.client_folder
        credentials = f"tls-creds-x509,id=tls,dir={files},endpoint=client"
        server = {
            "host": "localhost",
            "port": self.pair.tls_port,
            "export": "g/v",
            "tls-creds": "tls",
        }
        named = ",".join(f"file.{key}={value}" for key, value in server.items())
        image = f"driver=raw,file.driver=nbd,{named}"
        return ["--object", credentials, "--image-opts", image]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    folder = directory / "certificates"
    folder.mkdir()
    certificates = Certificates(folder)
    files = certificates.server_files()
    with Pair(directory, [VolumeSpec("v", SIZE)], tls=files) as pair:
        asyncio.run(pair.start())
        yield Secured(pair, certificates)


def through_nbdkit(secured: Secured, socket: str | Path) -> list[str]:
    """Return the command that serves the volume on in plain text at a socket."""
    return [
        *("nbdkit", "-f", "-U", str(socket), "nbd", "hostname=localhost"),
        *(f"port={secured.pair.tls_port}", "export=g/v", "tls=require"),
        f"tls-certificates={secured.client_folder}",
    ]


def test_nbdinfo(secured: Secured) -> None:
    said = run("nbdinfo", secured.tls_uri())
    assert "with TLS" in said
    assert f"export-size: {SIZE}" in said
    assert "g/v" in run("nbdinfo", "--list", secured.tls_uri())


@pytest.mark.parametrize(
    "way", [[], ["--synchronous"], ["--connections=4", "--request-size=33554432"]]
)
def test_nbdcopy(secured: Secured, tmp_path: Path, way: list[str]) -> None:
    content = pattern(SIZE, seed=len(way))
    source, copy = sparse_file(tmp_path / "source", content), tmp_path / "copy"
    run("nbdcopy", "--flush", *way, source, secured.tls_uri())
    assert secured.content == content
    run("nbdcopy", *way, secured.tls_uri(), copy)
    assert copy.read_bytes() == content


@pytest.mark.parametrize(
    "check",
    [
        "reads_and_writes",
        "many_requests_in_flight",
        "structured_reads",
        "zero_and_trim",
    ],
)
def test_libnbd(secured: Secured, check: str) -> None:
    run(SYSTEM_PYTHON, LIBNBD_COMMANDS, secured.tls_uri(), check)


@pytest.mark.needs_package("qemu-img")
def test_qemu(secured: Secured, tmp_path: Path) -> None:
    commands = ["write -P 0x17 4k 1M", "aio_write -P 0x18 2M 2M", "aio_flush"]
    checks = ["read -P 0x17 4k 1M", "read -P 0x18 2M 2M"]
    words = [word for command in (*commands, *checks) for word in ("-c", command)]
    said = run("qemu-io", *words, *secured.qemu_image())
    assert "failed" not in said
    copy = tmp_path / "copy"
    run("qemu-img", "convert", *secured.qemu_image(), "-O", "raw", copy)
    assert copy.read_bytes() == secured.content


@pytest.mark.needs_package("fio")
def test_nbdkit_with_fio_behind_it(secured: Secured) -> None:
    """fio itself can't be told where its certificates are."""
    load = (
        "fio --name=x --ioengine=nbd --uri=$uri --rw=randwrite --bs=4k --size=4M"
        " --iodepth=32 --verify=crc32c --verify_state_save=0 --verify_fatal=1"
    )
    run(*through_nbdkit(secured, "-"), "--run", load)


@pytest.mark.needs_package("nbdfuse", "fusermount3")
def test_nbdkit_with_nbdfuse_behind_it(secured: Secured, tmp_path: Path) -> None:
    """Nor can Debian 12's nbdfuse."""
    socket = Path(secured.pair.primary.nbd_socket).with_name("kit")
    with (
        running(*through_nbdkit(secured, socket), appears=socket),
        fuse_file(tmp_path / "fuse", f"nbd+unix:///?socket={socket}") as file,
    ):
        with file.open("r+b", buffering=0) as opened:
            opened.seek(5000)
            opened.write(b"encrypted")
        assert file.read_bytes()[5000:5009] == b"encrypted"
    assert secured.content[5000:5009] == b"encrypted"


def folders_of_others(certificates: Certificates) -> list[Path]:
    """Return what clients have that must not come in."""
    return [
        certificates.nameless(),
        certificates.stranger(),
        certificates.client("late.test", expired=True),
    ]


def test_who_has_no_good_certificate_gets_nothing(secured: Secured) -> None:
    for folder in folders_of_others(secured.certificates):
        for refused in (
            attempt("nbdinfo", secured.tls_uri(folder)),
            attempt("qemu-io", "-c", "read 0 512", *secured.qemu_image(folder)),
        ):
            assert refused.returncode != 0, refused
            assert str(SIZE) not in refused.stdout
    assert "with TLS" in run("nbdinfo", secured.tls_uri())


def test_plain_text_is_refused_there_and_served_on_the_unix_socket(
    secured: Secured,
) -> None:
    plain = secured.plain_uri("g/v")
    for words in (("nbdinfo",), ("nbdinfo", "--list")):
        refused = attempt(*words, plain)
        assert refused.returncode != 0
        assert "g/v" not in refused.stdout
    assert attempt("qemu-io", "-f", "raw", "-c", "read 0 1", plain).returncode != 0
    run("nbdinfo", secured.pair.primary.uri("g/v"))


def test_a_client_that_trusts_another_authority_stays_away(
    secured: Secured, tmp_path: Path
) -> None:
    other = Certificates(tmp_path).client("host-1.test")
    refused = attempt("nbdinfo", secured.tls_uri(other))
    assert refused.returncode != 0
    assert "certificate" in refused.stderr
