"""Each limit of the handshake and of TCP, from its key in a config to its effect."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from common.nbd.limits import NbdLimits
from common.nbd.protocol import Option, WireForm
from common.nbd.server import NbdServer
from common.service.config_nbd_limits import NbdLimitsTable
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_client import NbdClient, OptionRefusedError

UNKNOWN_OPTION = 99
NAME_BYTES = 4096


@contextlib.asynccontextmanager
async def serving(**keys: object) -> AsyncIterator[NbdServer]:
    """A server on TCP whose limits are those of a config with these keys."""
    limits = NbdLimitsTable.model_validate(keys).nbd_limits()
    exports = MemoryExports({"g/v": MemoryVolume(4096)})
    server = NbdServer(exports, limits)
    await server.listen(["tcp:127.0.0.1:0"])
    try:
        yield server
    finally:
        await server.close(grace_seconds=1.0)


async def unnegotiated(server: NbdServer) -> NbdClient:
    return await NbdClient.connect_unnegotiated(server.addresses[0])


def test_a_config_without_a_word_has_the_servers_own_defaults() -> None:
    assert NbdLimitsTable().nbd_limits() == NbdLimits()


@pytest.mark.parametrize("count", [8, 20])
async def test_a_handshake_has_as_many_options_as_the_config_says(count: int) -> None:
    async with serving(options_max=count) as server:
        client = await unnegotiated(server)
        for _ in range(count):
            with pytest.raises(OptionRefusedError):
                await client.option(UNKNOWN_OPTION)
        client.send(struct.pack(">QII", 0x49484156454F5054, UNKNOWN_OPTION, 0))
        await client.closed


@pytest.mark.parametrize("size", [16 << 10, 1 << 20])
async def test_an_options_data_ends_where_the_config_says(size: int) -> None:
    async with serving(option_data_bytes_max=f"{size}B") as server:
        client = await unnegotiated(server)
        with pytest.raises(OptionRefusedError):
            await client.option(UNKNOWN_OPTION, bytes(size))
        header = struct.pack(">QII", 0x49484156454F5054, UNKNOWN_OPTION, size + 1)
        client.send(header)
        await client.closed


@pytest.mark.parametrize("count", [8, 9])
async def test_an_option_takes_as_many_queries_as_the_config_says(count: int) -> None:
    async with serving(queries_max=count) as server:
        client = await unnegotiated(server)
        await client.agree(WireForm.STRUCTURED)
        await client.select_contexts("g/v", ["base:allocation"] * count)
        with pytest.raises(OptionRefusedError, match=f"at most {count} queries"):
            await client.select_contexts("g/v", ["base:allocation"] * (count + 1))
        client.abort()


async def test_a_name_is_as_long_as_the_protocol_says_whatever_the_config_does() -> (
    None
):
    async with serving(option_data_bytes_max="1MiB") as server:
        client = await unnegotiated(server)
        with pytest.raises(OptionRefusedError, match="no such export"):
            await client.go("x" * NAME_BYTES, [], option=Option.INFO)
        with pytest.raises(OptionRefusedError, match="4096"):
            await client.go("x" * (NAME_BYTES + 1), [], option=Option.INFO)
        client.abort()


async def test_tcp_looks_after_vanished_peers_as_the_config_says() -> None:
    async with serving(
        keepalive_idle="1500ms",
        keepalive_interval="3s",
        keepalive_probes=4,
        user_timeout="5500ms",
    ) as server:
        client = await NbdClient.connect(server.addresses[0], "g/v")
        await client.flush()  # by then it has moved to the volume's loop
        (hosts,) = server._hosts
        (transmission,) = hosts._open
        accepted = transmission._transport.get_extra_info("socket")
        tcp = socket.IPPROTO_TCP
        assert accepted.getsockopt(tcp, socket.TCP_KEEPIDLE) == 2
        assert accepted.getsockopt(tcp, socket.TCP_KEEPINTVL) == 3
        assert accepted.getsockopt(tcp, socket.TCP_KEEPCNT) == 4
        assert accepted.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 5500
        await client.disconnect()


@pytest.mark.parametrize(
    "keys",
    [
        {"options_max": 7},
        {"option_data_bytes_max": "8KiB"},
        {"option_data_bytes_max": "2MiB"},
        {"queries_max": 0},
        {"keepalive_idle": "0s"},
        {"keepalive_interval": "2h"},
        {"keepalive_probes": 128},
        {"user_timeout": "0ms"},
    ],
)
def test_a_limit_that_harms_clients_or_us_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NbdLimitsTable.model_validate(keys)
