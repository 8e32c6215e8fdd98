"""TLS for NBD clients, with other people's clients and with bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from common.nbd.access import Access, AccessRule
from common.nbd.addresses import Listening
from common.nbd.limits import NbdLimits
from common.nbd.server import NbdSecurity, NbdServer
from common.nbd.tls import TlsServer
from tests.support.certificates import Certificates
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_server import until

SIZE = 1 << 20
STARTTLS = struct.pack(">QII", 0x49484156454F5054, 5, 0)
LIST = struct.pack(">QII", 0x49484156454F5054, 3, 0)
ACK = struct.pack(">QIII", 0x0003E889045565A9, 5, 1, 0)

needs_clients = pytest.mark.needs_package("nbdinfo", "qemu-img", "nbdcopy")


class Serving:
    def __init__(self, server: NbdServer, volume: MemoryVolume) -> None:
        self.server = server
        self.volume = volume
        self.port = int(server.addresses[0].rpartition(":")[2])

    def uri(self, folder: Path, export: str = "g/v") -> str:
        return f"nbds://localhost:{self.port}/{export}?tls-certificates={folder}"


@contextlib.asynccontextmanager
async def serving(
    tls: TlsServer,
    limits: NbdLimits | None = None,
    rules: tuple[AccessRule, ...] = (),
) -> AsyncIterator[Serving]:
    volume = MemoryVolume(SIZE)
    exports = MemoryExports({"g/v": volume})
    security = NbdSecurity(Listening(has_tls=True), tls, rules)
    await run("true")  # uvloop opens descriptors of its own for the first process
    before = len(os.listdir("/proc/self/fd"))
    server = NbdServer(exports, limits, security)
    await server.listen(["tls:127.0.0.1:0"])
    try:
        yield Serving(server, volume)
    finally:
        await server.close(grace_seconds=1.0)
    await until(lambda: server.connection_count == 0)
    assert exports.all_released()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def run(*command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@needs_clients
class TestClients:
    async def test_content_goes_in_and_comes_back_over_tls(
        self, certificates: Certificates, tmp_path: Path
    ) -> None:
        content = os.urandom(SIZE)
        (tmp_path / "in").write_bytes(content)
        uri_of = certificates.client("app.test")
        async with serving(certificates.server()) as served:
            uri = served.uri(uri_of)
            code, output = await run("nbdcopy", str(tmp_path / "in"), uri)
            assert code == 0, output
            assert served.volume.content == content
            code, output = await run("nbdcopy", uri, str(tmp_path / "out"))
            assert code == 0, output
            assert (tmp_path / "out").read_bytes() == content

    async def test_qemu_reads_over_tls(
        self, certificates: Certificates, tmp_path: Path
    ) -> None:
        folder = certificates.client("app.test")
        async with serving(certificates.server()) as served:
            served.volume.content[:4] = b"qemu"
            served.volume.allocated[0] = 1
            code, output = await run(
                "qemu-img",
                "convert",
                "--object",
                f"tls-creds-x509,id=t,dir={folder},endpoint=client",
                "--image-opts",
                f"driver=nbd,host=localhost,port={served.port},export=g/v,tls-creds=t",
                "-O",
                "raw",
                str(tmp_path / "out"),
            )
            assert code == 0, output
            assert (tmp_path / "out").read_bytes() == served.volume.content

    async def test_a_client_without_tls_is_refused(
        self, certificates: Certificates
    ) -> None:
        async with serving(certificates.server()) as served:
            uri = f"nbd://localhost:{served.port}/g/v"
            code, output = await run("nbdinfo", uri)
            assert code != 0
            assert "TLS" in output
            assert served.volume.opened_count == 0

    @pytest.mark.parametrize("kind", ["stranger", "nameless", "expired"])
    async def test_a_client_that_our_ca_does_not_vouch_for_is_refused(
        self, certificates: Certificates, kind: str
    ) -> None:
        folder = {
            "stranger": certificates.stranger,
            "nameless": certificates.nameless,
            "expired": lambda: certificates.client("late.test", expired=True),
        }[kind]()
        async with serving(certificates.server()) as served:
            code, _ = await run("nbdinfo", served.uri(folder))
            assert code != 0
            assert served.volume.opened_count == 0

    async def test_without_verification_the_ca_is_asked_by_clients_only(
        self, certificates: Certificates
    ) -> None:
        async with serving(certificates.server(verify_clients=False)) as served:
            code, output = await run("nbdinfo", served.uri(certificates.nameless()))
            assert code == 0, output

    async def test_a_certificate_opens_what_the_rules_say(
        self, certificates: Certificates
    ) -> None:
        rules = (
            AccessRule(("g/*",), Access.READ_ONLY, certificates=frozenset({"ro.test"})),
        )
        async with serving(certificates.server(), rules=rules) as served:
            uri = served.uri(certificates.client("ro.test"))
            code, output = await run("nbdinfo", "--is", "read-only", uri)
            assert code == 0, output
            uri = served.uri(certificates.client("other.test"))
            forbidden = await run("nbdinfo", uri)
            unknown = await run("nbdinfo", uri.replace("g/v", "g/w"))
            assert forbidden[0] != 0
            assert forbidden[1].replace("g/v", "g/w") == unknown[1]

    async def test_new_connections_get_the_certificate_that_was_reloaded(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "old").mkdir()
        (tmp_path / "new").mkdir()
        old, new = Certificates(tmp_path / "old"), Certificates(tmp_path / "new")
        files = old.server_files()
        client = new.client("app.test")
        async with serving(TlsServer(files)) as served:
            assert (await run("nbdinfo", served.uri(client)))[0] != 0
            fresh = new.server_files()
            for name in ("ca", "cert", "key"):
                Path(getattr(fresh, name)).replace(getattr(files, name))
            served.server.prepare_certificates()()
            code, output = await run("nbdinfo", served.uri(client))
            assert code == 0, output
            Path(files.cert).write_text("broken")
            with pytest.raises(ConfigError, match=r"nbd\.tls\.cert"):
                served.server.prepare_certificates()
            assert (await run("nbdinfo", served.uri(client)))[0] == 0


class TestBadClients:
    async def greeted(
        self, served: Serving
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        await reader.readexactly(18)
        writer.write(b"\0\0\0\3")
        return reader, writer

    async def test_an_option_sent_along_with_starttls_is_never_answered(
        self, certificates: Certificates
    ) -> None:
        async with serving(certificates.server()) as served:
            reader, writer = await self.greeted(served)
            writer.write(STARTTLS + LIST)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            await until(lambda: served.server.connection_count == 0)

    async def test_an_option_in_plain_text_after_starttls_ends_the_connection(
        self, certificates: Certificates
    ) -> None:
        async with serving(certificates.server()) as served:
            reader, writer = await self.greeted(served)
            writer.write(STARTTLS)
            assert await reader.readexactly(20) == ACK
            writer.write(LIST)
            with contextlib.suppress(ConnectionError):
                # At most an alert of TLS, nothing of NBD.
                assert b"\x00\x03\xe8\x89" not in await reader.read()
            writer.close()
            await until(lambda: served.server.connection_count == 0)

    @pytest.mark.parametrize("after", [b"", STARTTLS, STARTTLS + b"\x16\x03\x01"])
    async def test_a_client_that_falls_silent_is_ended(
        self, certificates: Certificates, after: bytes, log_lines: list[Any]
    ) -> None:
        limits = NbdLimits(handshake_seconds=0.2)
        async with serving(certificates.server(), limits) as served:
            reader, writer = await self.greeted(served)
            writer.write(after[: len(STARTTLS)])
            if after:
                assert await reader.readexactly(20) == ACK
                writer.write(after[len(STARTTLS) :])
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            await until(lambda: served.server.connection_count == 0)

    @pytest.mark.parametrize("resets", [False, True])
    async def test_a_client_that_vanishes_in_its_handshake_leaves_nothing(
        self, certificates: Certificates, resets: bool
    ) -> None:
        async with serving(certificates.server()) as served:
            reader, writer = await self.greeted(served)
            writer.write(STARTTLS)
            assert await reader.readexactly(20) == ACK
            writer.write(b"\x16\x03\x01\x02")
            if resets:
                writer.transport.abort()
            else:
                writer.close()
            await until(lambda: served.server.connection_count == 0)


class TestFiles:
    def test_each_missing_file_is_named_with_its_key(
        self, certificates: Certificates
    ) -> None:
        for key in ("ca", "cert", "key"):
            files = certificates.server_files()
            Path(getattr(files, key)).unlink()
            with pytest.raises(ConfigError, match=rf"nbd\.tls\.{key}: cannot read"):
                TlsServer(files)

    def test_a_key_that_others_may_read_is_refused(
        self, certificates: Certificates
    ) -> None:
        files = certificates.server_files()
        Path(files.key).chmod(0o640)
        with pytest.raises(ConfigError, match="chmod 600"):
            TlsServer(files)

    def test_a_key_of_another_certificate_is_refused(self, tmp_path: Path) -> None:
        certificates = Certificates(tmp_path)
        files = certificates.server_files()
        other = certificates.client("other.test")
        Path(files.key).write_bytes((other / "client-key.pem").read_bytes())
        with pytest.raises(ConfigError, match="its own unencrypted key"):
            TlsServer(files)

    def test_a_ca_file_without_a_certificate_is_refused(
        self, certificates: Certificates
    ) -> None:
        files = certificates.server_files()
        Path(files.ca).write_text("nothing")
        with pytest.raises(ConfigError, match=r"nbd\.tls\.ca"):
            TlsServer(files)

    def test_an_expired_certificate_is_warned_of(
        self, certificates: Certificates, log_lines: list[Any]
    ) -> None:
        TlsServer(certificates.server_files())
        assert log_lines == []
        TlsServer(certificates.server_files(expired=True))
        assert [line["event"] for line in log_lines] == ["nbd_certificate_unusable"]
        assert "expired" in log_lines[0]["reason"]
