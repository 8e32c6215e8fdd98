"""Hosts that do not reconnect, over restarts of the real primary by a service manager
that keeps their connections: no request fails, none is lost, none is run twice."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.support.nbd_client import NbdClient
from tests.support.service_manager import ServiceManager
from tests.support.sites import Pair, VolumeSpec, until

SIZE_BYTES = 8 << 20
BLOCK_BYTES = 4096
DEPTH = 8
RESTARTS = 3
LOAD = (
    *("fio", "--name=host", "--ioengine=nbd", "--rw=randwrite", "--bs=4k"),
    *(f"--iodepth={DEPTH}", f"--size={SIZE_BYTES}", "--verify=crc32c"),
    *("--verify_state_save=0", "--rate_iops=400", "--exitall_on_error"),
)


class Writer:
    """Writes blocks with several under way, and knows what each has to hold."""

    def __init__(self, client: NbdClient) -> None:
        self.client = client
        self.written: dict[int, bytes] = {}
        self.count = 0
        self._is_ending = False

    async def run(self) -> None:
        await asyncio.gather(*(self._write(first) for first in range(DEPTH)))

    async def _write(self, first: int) -> None:
        """Write every `DEPTH`-th block, round by round."""
        at = first
        while not self._is_ending:
            data = self.count.to_bytes(8, "big") * (BLOCK_BYTES // 8)
            self.count += 1
            await self.client.write(at * BLOCK_BYTES, data)
            self.written[at] = data
            at = (at + DEPTH) % (SIZE_BYTES // BLOCK_BYTES)

    def end(self) -> None:
        self._is_ending = True


async def test_a_host_under_load_does_not_notice_restarts(tmp_path: Path) -> None:
    with (
        Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)], tcp=True) as pair,
        ServiceManager(tmp_path) as manager,
    ):
        pair.primary.manager = manager
        await pair.start()
        addresses = [
            f"unix:{pair.primary.nbd_socket}",
            f"tcp:127.0.0.1:{pair.tcp_port}",
        ]
        clients = [await NbdClient.connect(each, "g/v") for each in addresses]
        writer = Writer(clients[0])
        writing = asyncio.create_task(writer.run())
        for _ in range(RESTARTS):
            before = writer.count
            await until(
                lambda: writer.count > before + 4 * DEPTH or writing.done(),  # noqa: B023
                "writes",
            )
            await pair.primary.stop()
            assert len(manager.store) == len(clients)
            await pair.primary.start()
            await clients[1].read(0, BLOCK_BYTES)
            assert manager.store == {}, "they are the daemon's alone"
        writer.end()
        await writing
        assert not any(client.closed.done() for client in clients)
        for at, data in writer.written.items():
            assert await clients[1].read(at * BLOCK_BYTES, BLOCK_BYTES) == data
        for client in clients:
            await client.disconnect()
        await pair.connected()
        await pair.cut()
        assert (await pair.images(pair.remote))[0] == pair.content("v")


@pytest.mark.needs_package("fio")
async def test_fio_does_not_notice_a_restart(tmp_path: Path) -> None:
    """It ends with an error where it loses its connection."""
    with (
        Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)]) as pair,
        ServiceManager(tmp_path) as manager,
    ):
        pair.primary.manager = manager
        await pair.start()
        words = [*LOAD, f"--uri={pair.primary.uri('g/v')}", f"--aux-path={tmp_path}"]
        with (tmp_path / "fio.log").open("wb") as log:
            fio = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            for _ in range(RESTARTS):
                before = pair.content("v")
                await until(
                    lambda: pair.content("v") != before or fio.poll() is not None,  # noqa: B023
                    "writes",
                )
                assert fio.poll() is None, (tmp_path / "fio.log").read_text()
                await pair.primary.stop()
                assert len(manager.store) == 1
                await pair.primary.start()
            assert await asyncio.to_thread(fio.wait, 120) == 0, (
                tmp_path / "fio.log"
            ).read_text()
        finally:
            fio.kill()
            fio.wait()


async def test_a_killed_daemon_leaves_no_connection_behind(tmp_path: Path) -> None:
    with (
        Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)]) as pair,
        ServiceManager(tmp_path) as manager,
    ):
        pair.primary.manager = manager
        await pair.start()
        client = await pair.primary.nbd("g/v")
        await client.write(0, b"x" * BLOCK_BYTES)
        pair.primary.kill()
        await client.closed
        assert manager.store == {}
        await pair.primary.start()
