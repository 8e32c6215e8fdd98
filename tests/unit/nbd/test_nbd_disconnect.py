"""An export that ends while the server goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common.nbd.uris import uris
from tests.support.memory_volume import MemoryVolume
from tests.support.nbd_server import serving, until


async def test_its_connections_end_answered_and_others_stay(tmp_path: Path) -> None:
    volumes = {"g/v+c": MemoryVolume(1 << 20), "g/v": MemoryVolume(1 << 20)}
    async with serving(tmp_path, volumes) as served:
        leaving = await served.client("g/v+c")
        staying = await served.client("g/v")
        held = volumes["g/v+c"]
        held.held = True
        write = leaving.write(0, b"x" * 512)
        await until(lambda: len(held.waiting) == 1)
        ending = asyncio.create_task(served.server.disconnect("g/v+c"))
        await asyncio.sleep(0)
        assert not ending.done()
        held.step()
        await write
        await ending
        with pytest.raises(ConnectionError):
            await leaving.read(0, 512)
        await staying.write(0, b"y" * 512)
        await staying.disconnect()
        await served.server.disconnect("g/nobody")


async def test_who_is_not_answered_within_the_grace_is_dropped(tmp_path: Path) -> None:
    volume = MemoryVolume(1 << 20)
    async with serving(tmp_path, {"g/v+c": volume}) as served:
        client = await served.client("g/v+c")
        volume.held = True
        read = client.read(0, 512)
        await until(lambda: len(volume.waiting) == 1)
        await served.server.disconnect("g/v+c", grace_seconds=0.01)
        with pytest.raises(ConnectionError):
            await read
        volume.step()


def test_each_address_has_its_uri() -> None:
    addresses = [
        "tcp:127.0.0.1:10809",
        "tls:0.0.0.0:10810",
        "tls:[::1]:10811",
        "unix:/run/a b.sock",
        "systemd:nbd",
    ]
    assert uris(addresses, "g/v+c") == [
        "nbd+unix:///g/v+c?socket=/run/a%20b.sock",
        "nbd://127.0.0.1:10809/g/v+c",
        "nbds://localhost:10810/g/v+c",
        "nbds://[::1]:10811/g/v+c",
    ]
