"""What clients are told that still negotiate while the server closes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from common.nbd.addresses import Listening
from common.nbd.limits import NbdLimits
from common.nbd.protocol import Option, OptionReply
from common.nbd.server import NbdSecurity, NbdServer
from common.nbd.tls import TlsServer
from tests.support import nbd_wire as wire
from tests.support.certificates import Certificates
from tests.support.hostile_clients import StoppingClient
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_client import NbdClient, OptionRefusedError
from tests.support.nbd_server import PATIENCE_SECONDS, until
from tests.support.tls_client import encrypt

FOR_EVER_SECONDS = 3600.0
UNHURRIED = NbdLimits(
    handshake_seconds=FOR_EVER_SECONDS, farewell_seconds=FOR_EVER_SECONDS
)
"""Whoever waits for one of these to pass fails by the patience of the test."""


class Closing:
    """A server on TCP that is told to close in the middle of handshakes."""

    def __init__(self, server: NbdServer) -> None:
        self.server = server
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def address(self) -> str:
        return self.server.addresses[0]

    async def client(self) -> NbdClient:
        return await NbdClient.connect_unnegotiated(self.address)

    async def begin(self) -> None:
        """Return once every handshake has heard of it."""
        self.done = asyncio.ensure_future(
            self.server.close(grace_seconds=FOR_EVER_SECONDS)
        )
        await until(lambda: self.server._closing)

    async def end(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.done


@contextlib.asynccontextmanager
async def closing(
    exports: MemoryExports | None = None,
    limits: NbdLimits = UNHURRIED,
    tls: TlsServer | None = None,
) -> AsyncIterator[Closing]:
    exports = exports or MemoryExports({"g/v": MemoryVolume(1 << 20)})
    security = NbdSecurity(Listening(has_tls=tls is not None), tls)
    server = NbdServer(exports, limits, security)
    await server.listen([f"{'tcp' if tls is None else 'tls'}:127.0.0.1:0"])
    try:
        yield Closing(server)
    finally:
        await server.close(grace_seconds=0.0)
        await until(lambda: server.connection_count == 0)
        assert exports.all_released()


async def refused(asked: Awaitable[object]) -> None:
    with pytest.raises(OptionRefusedError, match="shutting down") as told:
        await asked
    assert told.value.kind == OptionReply.ERR_SHUTDOWN


async def test_whoever_still_negotiates_is_told_why_until_it_leaves() -> None:
    async with closing() as closed:
        client = await closed.client()
        assert await client.list_exports() == [("g/v", "memory")]
        await closed.begin()
        await refused(client.list_exports())
        await refused(client.go("g/v", []))
        assert not closed.done.done()
        await client.option(Option.ABORT)
        await client.closed
        await closed.end()


async def test_what_was_asked_before_holds_no_volume_open() -> None:
    async with closing() as closed:
        client = await closed.client()
        await client.go("g/v", [], option=Option.INFO)
        await closed.begin()
        await refused(client.go("g/v", []))
        client.abort()
        await closed.end()


async def test_export_name_knows_no_refusal_and_is_hung_up_on() -> None:
    async with closing() as closed:
        client = await closed.client()
        await closed.begin()
        client.send(wire.option(Option.EXPORT_NAME, b"g/v"))
        await client.closed
        await closed.end()


async def test_a_client_between_starttls_and_tls_is_told_under_tls(
    tmp_path: Path,
) -> None:
    certificates = Certificates(tmp_path)
    tls = TlsServer(certificates.server_files())
    async with closing(tls=tls) as closed:
        client = await NbdClient.connect_unnegotiated(
            closed.address.replace("tls:", "tcp:", 1)
        )
        await client.option(Option.STARTTLS)
        await closed.begin()
        await encrypt(client, certificates.client("host-1.test"))
        await refused(client.list_exports())
        client.abort()
        await closed.end()


async def test_who_says_nothing_is_waited_for_no_longer_than_the_farewell() -> None:
    limits = NbdLimits(handshake_seconds=FOR_EVER_SECONDS, farewell_seconds=0.01)
    async with closing(limits=limits) as closed:
        client = await closed.client()
        await closed.begin()
        await client.closed
        await closed.end()


async def test_the_grace_ends_handshakes_whatever_the_farewell() -> None:
    async with closing() as closed:
        client = await closed.client()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await closed.server.close(grace_seconds=0.01)
        await client.closed


async def test_who_chose_an_export_and_takes_no_answer_is_dropped_at_once() -> None:
    names = [f"g/{'v' * 200}{number}" for number in range(200)]
    exports = MemoryExports({name: MemoryVolume(512) for name in names})
    async with closing(exports) as closed:
        client = await asyncio.to_thread(StoppingClient, closed.address)
        with contextlib.closing(client.socket):
            # More than sockets hold: that it has chosen lies behind what is unsent.
            many = wire.option(Option.LIST) * 400
            go = wire.option(Option.GO, wire.infos(names[0]))
            await asyncio.to_thread(client.send, wire.CLIENT_FLAGS + many + go)
            await until(lambda: any(h._agreed for h in closed.server._handshakes))
            await closed.begin()
            await closed.end()
