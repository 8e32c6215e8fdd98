"""Connections that move from the main loop to a volume's loop in another thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from common.errors import ConfigError
from common.nbd.limits import NbdLimits
from common.nbd.server import NbdServer
from common.ports import Complete, HostRequest
from common.service.loop_thread import LoopThread
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_client import NbdClient
from tests.support.nbd_server import serving, until

SIZE = 1 << 20


class VolumeElsewhere(MemoryVolume):
    """Lives on a loop in a thread of its own, and insists on it."""

    def __init__(self, home: asyncio.AbstractEventLoop) -> None:
        super().__init__(SIZE)
        self.home = home
        self.threads: set[int] = set()
        self.hangs_until: threading.Event | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.home

    def submit(self, requests: list[HostRequest], complete: Complete) -> None:
        self.threads.add(threading.get_ident())
        if self.hangs_until is not None:
            self.hangs_until.wait(60)
        super().submit(requests, complete)

    def release(self) -> None:
        self.threads.add(threading.get_ident())
        super().release()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
async def home(request: pytest.FixtureRequest) -> AsyncIterator[LoopThread]:
    thread = LoopThread("volume", request.param)
    yield thread
    if not thread.loop.is_closed():
        await thread.close(10.0)


async def test_requests_and_the_release_run_on_the_volumes_loop(
    home: LoopThread, tmp_path: Path
) -> None:
    volume = VolumeElsewhere(home.loop)
    descriptors = 0
    async with serving(tmp_path, {"g/v": volume}) as served:
        for number in range(20):
            client = await served.client()
            # Sent at once, so that some of it travels with the hand-over.
            writes = [client.write(n * 4096, bytes([number]) * 4096) for n in range(50)]
            await asyncio.gather(*writes)
            assert await client.read(0, 50 * 4096) == bytes([number]) * 50 * 4096
            await client.disconnect()
            await until(lambda: served.server.connection_count == 0)
            # Loops open some for themselves at first.
            descriptors = descriptors or len(os.listdir("/proc/self/fd"))
    assert volume.released_count == 20
    assert len(volume.threads) == 1
    assert threading.get_ident() not in volume.threads
    await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


async def test_an_opening_that_is_only_asked_about_is_released_there_too(
    home: LoopThread, tmp_path: Path
) -> None:
    volume = VolumeElsewhere(home.loop)
    async with serving(tmp_path, {"g/v": volume}) as served:
        client = await NbdClient.connect_unnegotiated(served.address)
        await client.go("g/v", [], option=6)  # type: ignore[arg-type]
        client.abort()
        await until(lambda: volume.released_count == 1)
    assert threading.get_ident() not in volume.threads


async def test_a_volume_whose_loop_hangs_costs_a_close_its_grace_only(
    home: LoopThread, tmp_path: Path
) -> None:
    volume = VolumeElsewhere(home.loop)
    exports = MemoryExports({"hung": volume, "well": MemoryVolume(SIZE)})
    server = NbdServer(exports, NbdLimits(connections_per_export_max=2))
    address = f"unix:{tmp_path / 'nbd.sock'}"
    await server.listen([address])
    client = await NbdClient.connect(address, "hung")
    volume.hangs_until = threading.Event()
    write = client.write(0, b"late")
    try:
        await until(lambda: len(volume.threads) == 1)
        second = await NbdClient.connect(address, "hung")
        third = await NbdClient.connect_unnegotiated(address)
        asking = asyncio.ensure_future(third.go("hung", []))
        await third.closed
        asking.cancel()
        well = await NbdClient.connect(address, "well")
        assert await well.read(0, 4) == bytes(4)
        await server.close(grace_seconds=0.05)
        assert server.connection_count == 2
    finally:
        volume.hangs_until.set()
    # It was done before the loop heard of the close.
    await write
    assert volume.content[:4] == b"late"
    await until(lambda: server.connection_count == 0)
    assert exports.all_released()
    second.abort()
    well.abort()


async def test_a_connection_to_a_volume_whose_loop_has_ended_is_closed(
    home: LoopThread, tmp_path: Path
) -> None:
    volume = VolumeElsewhere(home.loop)
    await home.close(10.0)
    async with serving(tmp_path, {"g/v": volume}) as served:
        client = await NbdClient.connect_unnegotiated(served.address)
        await client.go("g/v", [])
        await client.closed
        await until(lambda: served.server.connection_count == 0)
        assert volume.released_count == 1


async def test_a_socket_that_nobody_handed_over_is_named() -> None:
    server = NbdServer(MemoryExports({}))
    with pytest.raises(ConfigError, match="FileDescriptorName=hosts"):
        await server.listen(["systemd:hosts"])


async def test_plain_text_beyond_this_machine_is_refused() -> None:
    server = NbdServer(MemoryExports({}))
    with pytest.raises(ConfigError, match="allow_plaintext_nbd = true"):
        await server.listen(["tcp:0.0.0.0:0"])
    with pytest.raises(ConfigError, match=r"\[nbd\.tls\]"):
        await server.listen(["tls:127.0.0.1:0"])
    await server.close()


async def test_a_loop_that_stands_still_before_a_hand_over_costs_a_close_its_grace_only(
    home: LoopThread, tmp_path: Path
) -> None:
    volume = VolumeElsewhere(home.loop)
    exports = MemoryExports({"g/v": volume})
    server = NbdServer(exports)
    address = f"unix:{tmp_path / 'nbd.sock'}"
    await server.listen([address])
    stopped, goes_on = threading.Event(), threading.Event()

    def stand_still() -> None:
        stopped.set()
        goes_on.wait(60)

    home.loop.call_soon_threadsafe(stand_still)
    await until(stopped.is_set)
    try:
        client = await NbdClient.connect(address, "g/v")
        await server.close(grace_seconds=0.05)
        assert server.connection_count == 1
        assert volume.released_count == 0
    finally:
        goes_on.set()
    # The hand-over reaches a loop that was told to finish before it began.
    await until(lambda: server.connection_count == 0)
    assert exports.all_released()
    await client.closed
