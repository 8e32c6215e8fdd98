"""TLS over any stream: what is written comes out, however the wire cuts it up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common.certificates import Certificate
from common.errors import ConfigError, ConnectionLostError, ProtocolError
from common.replication.credentials import Credentials
from common.replication.tls_stream import HANDSHAKE_BYTES_MAX, TlsStream, secure
from tests.support.certificates import Certificates
from tests.support.memory_pipe import Pipe


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def both(certificates: Certificates) -> tuple[Credentials, Credentials]:
    return (
        Credentials.read(certificates.site("a"), "group.link.tls", is_server=False),
        Credentials.read(certificates.site("b"), "replication.tls", is_server=True),
    )


async def shaken(
    both: tuple[Credentials, Credentials], piece_bytes: int = 1 << 20
) -> tuple[TlsStream, TlsStream, Pipe, Pipe]:
    near, far = Pipe.pair(piece_bytes)
    client, server = await asyncio.gather(secure(near, both[0]), secure(far, both[1]))
    return client, server, near, far


async def read_exactly(stream: TlsStream, count: int, limit_bytes: int) -> bytes:
    found = b""
    while len(found) < count:
        data = await stream.read(limit_bytes)
        assert 0 < len(data) <= limit_bytes
        found += data
    return found


@pytest.mark.parametrize("piece_bytes", [1, 7, 4096, 1 << 20])
async def test_what_is_written_comes_out_in_order_both_ways(
    both: tuple[Credentials, Credentials], piece_bytes: int
) -> None:
    client, server, near, _ = await shaken(both, piece_bytes)
    large = bytes(range(256)) * min(40 * piece_bytes, 4000)
    sent = [b"head", memoryview(b"meta"), large, b"", bytearray(b"tail")]
    expected = b"".join(bytes(each) for each in sent)
    for one, other in ((client, server), (server, client)):
        await one.write(sent)
        assert await read_exactly(other, len(expected), 1000) == expected
    assert b"head" not in near.written


async def test_each_sees_the_certificate_of_the_other(
    both: tuple[Credentials, Credentials],
) -> None:
    client, server, _, _ = await shaken(both)
    assert client.certificate == both[1].own
    assert (
        server.certificate
        == both[0].own
        == Certificate(frozenset({"a"}), both[0].own.expires_ns)
    )


async def test_small_buffers_share_a_record(
    both: tuple[Credentials, Credentials],
) -> None:
    client, server, near, _ = await shaken(both)
    before = len(near.written)
    await client.write([b"x" * 20, b"y" * 20, b"z" * 20])
    assert len(near.written) - before == 60 + 22
    assert await server.read(100) == b"x" * 20 + b"y" * 20 + b"z" * 20


async def test_an_end_in_order_is_an_end_and_a_cut_is_none(
    both: tuple[Credentials, Credentials],
) -> None:
    client, server, _, _ = await shaken(both)
    await client.write([b"last"])
    await client.close()
    assert await server.read(100) == b"last"
    assert await server.read(100) == b""
    assert await server.read(100) == b""
    with pytest.raises(ConnectionLostError):
        await client.write([b"more"])
    client, server, _, _ = await shaken(both)
    await client.write([b"last"])
    client.abort()
    assert await server.read(100) == b"last"
    with pytest.raises(ConnectionLostError, match="cut off"):
        await server.read(100)


@pytest.mark.parametrize("position", [0, 3, 5, 30, -1])
async def test_a_changed_byte_ends_it_after_what_was_whole(
    both: tuple[Credentials, Credentials], position: int
) -> None:
    client, server, _, far = await shaken(both)
    await client.write([b"whole"])
    await client.write([b"forged" * 10])
    forged = bytearray(far.chunks[-1])
    forged[position] ^= 1
    far.chunks[-1] = bytes(forged)
    client.abort()  # a length that grew waits for more
    assert await server.read(100) == b"whole"
    with pytest.raises((ProtocolError, ConnectionLostError)):
        assert not await server.read(100)


async def test_what_is_recorded_and_played_again_is_refused(
    both: tuple[Credentials, Credentials],
) -> None:
    client, server, _, far = await shaken(both)
    await client.write([b"once"])
    far.arrived(far.chunks[-1])
    assert await server.read(100) == b"once"
    with pytest.raises(ProtocolError):
        await server.read(100)


async def test_a_handshake_is_not_collected_without_end(
    both: tuple[Credentials, Credentials],
) -> None:
    near, far = Pipe.pair(1 << 20)
    fragment = b"\x16\x03\x01\x00\x04\x01\x01\xff\x00" + b"\x16\x03\x01\x00\x01\x00" * (
        HANDSHAKE_BYTES_MAX // 2
    )
    await near.write([fragment])
    await near.close()
    with pytest.raises((ProtocolError, ConnectionLostError)):
        await secure(far, both[1])
    assert far.aborted
    left = sum(len(chunk) for chunk in far.chunks)
    assert len(fragment) - left <= 2 * HANDSHAKE_BYTES_MAX


async def test_a_cancelled_handshake_drops_the_connection(
    both: tuple[Credentials, Credentials],
) -> None:
    _, far = Pipe.pair(1 << 20)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await secure(far, both[1])
    assert far.aborted


class TestOwnFiles:
    def test_a_certificate_without_a_dns_name_is_refused(
        self, certificates: Certificates
    ) -> None:
        files = certificates.site("10.0.0.1")
        with pytest.raises(ConfigError, match=r"replication\.tls\.cert.*no DNS name"):
            Credentials.read(files, "replication.tls", is_server=True)

    def test_a_certificate_of_the_wrong_use_is_refused(
        self, certificates: Certificates
    ) -> None:
        from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

        files = certificates.made_for("b", ExtendedKeyUsageOID.CLIENT_AUTH)
        Credentials.read(files, "group.link.tls", is_server=False)
        with pytest.raises(ConfigError, match="extendedKeyUsage"):
            Credentials.read(files, "replication.tls", is_server=True)

    @pytest.mark.parametrize("key", ["ca", "cert", "key"])
    def test_a_missing_file_is_named(
        self, certificates: Certificates, key: str
    ) -> None:
        files = certificates.site("b")
        Path(getattr(files, key)).unlink()
        with pytest.raises(ConfigError, match=rf"replication\.tls\.{key}: cannot read"):
            Credentials.read(files, "replication.tls", is_server=True)
