"""What lies between a TLS client and its volume: bounded, ordered, and gone with it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.nbd.addresses import Listening
from common.nbd.limits import NbdLimits
from common.nbd.protocol import Option
from common.nbd.relay import WRITE_BUFFER_BYTES_MAX, Relay
from common.nbd.server import NbdSecurity, NbdServer
from tests.support.certificates import Certificates
from tests.support.hostile_clients import Ending, end_client
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_client import NbdClient, counted
from tests.support.nbd_server import until
from tests.support.tls_client import connect_tls, start_tls

MIB = 1 << 20
ONE_READ_BYTES_MAX = MIB
"""A loop reads no more at once than this, and a relay's buffer may exceed by it."""


@dataclass
class Serving:
    server: NbdServer
    exports: MemoryExports
    folder: Path

    @property
    def relay(self) -> Relay:
        (relay,) = self.server._relays
        return relay

    async def client(self, export: str = "g/v") -> NbdClient:
        return await connect_tls(self.server.addresses[0], self.folder, export)


@contextlib.asynccontextmanager
async def serving(
    tmp_path: Path, volumes: dict[str, MemoryVolume], limits: NbdLimits | None = None
) -> AsyncIterator[Serving]:
    certificates = Certificates(tmp_path)
    security = NbdSecurity(Listening(has_tls=True), certificates.server())
    exports = MemoryExports(volumes)
    server = NbdServer(exports, limits, security)
    await server.listen(["tls:127.0.0.1:0"])
    try:
        yield Serving(server, exports, certificates.client("app.test"))
    finally:
        await server.close(grace_seconds=1.0)
    await until(lambda: server.connection_count == 0)
    assert exports.all_released()


async def test_replies_that_a_client_does_not_take_lie_in_a_bounded_buffer(
    tmp_path: Path,
) -> None:
    volume = MemoryVolume(MIB)
    volume.keeps_submitted = True
    volume.content[:] = bytes(range(256)) * 4096
    volume.allocated[:] = b"\x01" * len(volume.allocated)
    limits = NbdLimits(bytes_in_flight_max=2 * MIB, write_buffer_bytes_max=MIB)
    async with serving(tmp_path, {"g/v": volume}, limits) as served:
        client = await served.client()
        assert client._transport is not None
        client._transport.pause_reading()
        reads = [client.read(0, MIB) for _ in range(120)]
        plain = served.relay._volume
        await until(lambda: plain.transport is not None)
        assert plain.transport is not None
        transport = plain.transport
        await until(lambda: not transport.is_reading())
        queued = served.relay._encrypted.get_write_buffer_size()
        assert queued <= WRITE_BUFFER_BYTES_MAX + ONE_READ_BYTES_MAX
        # What is not asked of the volume takes no memory either.
        assert sum(map(len, volume.submitted)) < len(reads)
        client._transport.resume_reading()
        for read in reads:
            assert await read == volume.content
        await client.disconnect()


async def test_requests_that_a_volume_does_not_take_lie_in_a_bounded_buffer(
    tmp_path: Path,
) -> None:
    volume = MemoryVolume(MIB, held=True)
    limits = NbdLimits(bytes_in_flight_max=2 * MIB, requests_in_flight_max=4)
    async with serving(tmp_path, {"g/v": volume}, limits) as served:
        client = await served.client()
        writes = [client.write(0, bytes([n]) * MIB) for n in range(60)]
        relay = served.relay
        await until(lambda: not relay._encrypted.is_reading())
        transport = relay._volume.transport
        assert transport is not None
        queued = transport.get_write_buffer_size()
        assert queued <= WRITE_BUFFER_BYTES_MAX + ONE_READ_BYTES_MAX
        assert len(volume.waiting) <= 4
        while not all(write.done() for write in writes):
            if volume.waiting:
                volume.step()
            await asyncio.sleep(0)
        assert volume.content == bytes([59]) * MIB
        await client.disconnect()


@pytest.mark.parametrize("in_flight_max", [3, 128])
@pytest.mark.parametrize("how", [Ending.CLOSE, Ending.RESET])
async def test_no_write_of_a_dead_client_lands_on_those_of_a_new_one(
    tmp_path: Path, how: Ending, in_flight_max: int
) -> None:
    volume = MemoryVolume(MIB, held=True)
    limits = NbdLimits(requests_in_flight_max=in_flight_max)
    async with serving(tmp_path, {"g/v": volume}, limits) as served:
        dying = await served.client()
        for n in range(10):
            dying.write(n, b"old")
        started = min(10, in_flight_max)
        await until(lambda: len(volume.waiting) == started)
        end_client(dying, how)
        await dying.closed
        client = await served.client()
        other = await served.client()
        writes = [client.write(n, b"new") for n in range(12)]
        # Neither may start: what runs is of a connection that both replace.
        assert len(volume.waiting) == started
        reading = other.read(0, 3)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(volume.waiting) == started
        while not (reading.done() and all(write.done() for write in writes)):
            if volume.waiting:
                volume.step()
            await asyncio.sleep(0)
        assert volume.content[:14] == b"n" * 11 + b"new"
        await client.disconnect()
        await other.disconnect()


async def test_a_client_that_takes_no_answer_of_its_handshake_is_ended(
    tmp_path: Path,
) -> None:
    # More than the system takes into its own buffers.
    volumes = {f"v{n}": MemoryVolume(4096, description="d" * 4000) for n in range(99)}
    async with serving(
        tmp_path, volumes, NbdLimits(handshake_seconds=2.0, options_max=64)
    ) as served:
        client = await start_tls(served.server.addresses[0], served.folder)
        assert client._transport is not None
        connection = client._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client._transport.pause_reading()
        listing = b"IHAVEOPT" + Option.LIST.to_bytes(4, "big") + bytes(4)
        name = counted("v1") + bytes(2)
        chosen = b"IHAVEOPT" + Option.GO.to_bytes(4, "big")
        client.send(listing * 60 + chosen + len(name).to_bytes(4, "big") + name)
        await until(lambda: served.server.connection_count == 1)
        await until(lambda: served.server.connection_count == 0)
        assert volumes["v1"].opened_count == volumes["v1"].released_count == 1
        client.abort()


async def test_the_oldest_that_has_not_finished_makes_room_also_before_its_tls(
    tmp_path: Path,
) -> None:
    limits = NbdLimits(handshakes_max=3)
    async with serving(tmp_path, {"g/v": MemoryVolume(MIB)}, limits) as served:
        address = served.server.addresses[0].replace("tls:", "tcp:")
        silent = [await NbdClient.connect_unnegotiated(address)]
        halfway = await NbdClient.connect_unnegotiated(address)
        await halfway.option(Option.STARTTLS)
        silent.append(await NbdClient.connect_unnegotiated(address))
        client = await served.client()
        await silent[0].closed
        assert not halfway.closed.done()
        assert not silent[1].closed.done()
        # It has left the handshake: there is room for one, and then none again.
        silent.append(await NbdClient.connect_unnegotiated(address))
        silent.append(await NbdClient.connect_unnegotiated(address))
        await halfway.closed
        assert not silent[1].closed.done()
        assert await client.read(0, 4) == bytes(4)
        await client.disconnect()
        for each in silent:
            each.abort()
        halfway.abort()
