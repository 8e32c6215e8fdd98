"""A device restored from a backup while its daemon was down, after a kill."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.sites import Pair, VolumeSpec, until

MIB = 1 << 20
SIZE_BYTES = 64 * MIB


async def write(pair: Pair, offset: int) -> None:
    host = await pair.primary.nbd("g/v")
    await host.write(offset, os.urandom(MIB), fua=True)
    await host.disconnect()


async def compared(pair: Pair, number: int) -> int:
    """Return how many tracks of a cycle went as hashes first."""
    found: dict[int, int] = {}

    def is_told() -> bool:
        for event in pair.primary.events("cycle_committed"):
            found[event["number"]] = event["tracks_compared"]
        return number in found

    await until(is_told, f"the log tells of cycle {number}")
    return found[number]


async def test_another_file_in_its_place_is_compared_whole(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES, {"track_size": "4KiB"})]) as pair:
        await pair.start()
        await write(pair, 40 * MIB)
        await pair.cut()
        backup = tmp_path / "backup"
        shutil.copyfile(pair.device("v"), backup)
        await write(pair, 8 * MIB)
        await pair.cut()
        # Stopped in good order: of that write nothing is in doubt afterwards.
        await pair.primary.stop()
        await pair.primary.start()
        await pair.connected()
        await write(pair, 20 * MIB)
        await pair.cut()
        pair.primary.kill()
        backup.rename(pair.device("v"))
        await pair.primary.start()
        await pair.connected()
        cut = await pair.cut()
        assert await compared(pair, cut["number"]) == SIZE_BYTES // 4096
        restored = pair.content("v")
        assert await pair.remote.read_whole(f"g/v@{cut['number']}") == restored
        # The same file, killed again: only what was in write is compared.
        await write(pair, 30 * MIB)
        pair.primary.kill()
        await pair.primary.start()
        await pair.connected()
        cut = await pair.cut()
        assert 0 < await compared(pair, cut["number"]) < SIZE_BYTES // 4096
        assert await pair.remote.read_whole("g/v") == pair.content("v")
