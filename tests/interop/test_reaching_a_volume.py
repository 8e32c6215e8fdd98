"""What clients that people have make reach a volume: connections, flushes, FUA.

The volume is in memory, in this process, so that it can be looked at and held.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.client_commands import attempt, run
from tests.support.memory_volume import MemoryVolume
from tests.support.nbd_server import Serving, serving, until

SIZE = 8 << 20


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path, {"g/v": MemoryVolume(SIZE)}) as started:
        yield started


async def aside(*words: object) -> str:
    """Run a command while the server goes on in this loop."""
    return await asyncio.to_thread(run, *words)


@pytest.mark.needs_package("nbdcopy")
async def test_nbdcopy_uses_its_connections_and_flushes(
    served: Serving, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"\xa5" * SIZE)
    four = ["--connections=4", "--threads=4"]
    await aside("nbdcopy", "--flush", *four, source, served.uri())
    assert served.volume.content == source.read_bytes()
    assert served.volume.flush_count > 0
    assert served.volume.opened_count >= 4


@pytest.mark.needs_package("qemu-io")
async def test_qemu_io_asks_for_durability(served: Serving) -> None:
    fua = ["-f", "raw", "-c", "write -f -P 0x22 1000 3000"]
    await aside("qemu-io", "-t", "none", *fua, served.uri())
    assert served.volume.content[1000:4000] == b"\x22" * 3000
    assert served.volume.fua_count > 0
    before = served.volume.flush_count
    await aside("qemu-io", "-f", "raw", "-c", "flush", served.uri())
    assert served.volume.flush_count > before


@pytest.mark.needs_package("nbd-client")
async def test_nbd_client_lists_exports(served: Serving) -> None:
    listing = ("nbd-client", "-unix", served.socket_path, "-l")
    finished = await asyncio.to_thread(attempt, *listing)
    assert "g/v" in finished.stdout, finished
    await until(lambda: served.server.connection_count == 0)


@pytest.mark.needs_package("qemu-io")
async def test_a_client_killed_in_mid_write_leaves_nothing_behind(
    served: Serving,
) -> None:
    held = served.volume
    held.held = True
    process = await asyncio.create_subprocess_exec(
        "qemu-io",
        "-f",
        "raw",
        "-c",
        "aio_write -P 1 0 1M",
        "-c",
        "aio_flush",
        served.uri(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await until(lambda: bool(held.waiting))
    process.kill()
    await process.wait()
    await until(lambda: held.released_count == held.opened_count - 1)
    while held.waiting:
        held.step()
    await until(served.exports.all_released)
    held.held = False
