"""Volumes that grow while hosts use them: real daemons, real clients."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.nbd_client import NbdReplyError
from tests.support.sites import Pair, VolumeSpec, read_all, run_cli

MIB = 1 << 20
ODD = 4 * MIB + 1536
"""The last track is cut, and does not end with a page."""

SIZES = (ODD + 512, ODD + 3 * 4096 - 1536, 9 * MIB + 512, 140 * MIB)
"""Within the last track; to its end and on; by more than a page of the bitmap."""


async def grow(
    pair: Pair, volume: str, size: int | str, *options: str
) -> dict[str, Any]:
    """`farshore grow`, as an operator types it."""
    socket = pair.primary.control_socket
    said = await asyncio.to_thread(
        run_cli,
        "grow",
        f"g/{volume}",
        str(size),
        "--json",
        "--socket",
        socket,
        *options,
    )
    assert said.returncode == 0, said.stderr
    found: dict[str, Any] = json.loads(said.stdout)
    return found


async def test_a_volume_grows_under_its_hosts_and_points_keep_their_sizes(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, [VolumeSpec("v", ODD), VolumeSpec("w", 2 * MIB)]) as pair:
        await pair.start()
        old = await pair.primary.nbd("g/v")
        await old.write(ODD - 512, b"e" * 512)
        cut = await pair.cut()
        kept = []
        for step, size in enumerate(SIZES, 1):
            # A connection keeps its point.
            point = await pair.remote.nbd(f"g/v@{cut['number']}")
            kept.append((point, pair.content("v")))
            grown = await grow(pair, "v", size, "--wait")
            assert (grown["size_bytes"], grown["group"]) == (size, "g")
            assert grown["point"] > cut["number"]
            new = await pair.primary.nbd("g/v")
            assert new.info.size_bytes == size
            assert await new.read(grown["before_bytes"], 512) == bytes(512)
            await new.write(size - 512, bytes([step]) * 512)
            await old.write(4096 * step, bytes([step]) * 4096)
            cut = await pair.cut()
            assert await pair.remote.read_whole("g/v", sparse=True) == pair.content("v")
            assert await pair.remote.read_whole("g/w") == pair.content("w")
            for point, image in kept:
                assert await read_all(point) == image
        # What connected before goes on with the size that was agreed.
        await old.write(ODD - 512, b"f" * 512)
        with pytest.raises(NbdReplyError) as refused:
            await old.write(ODD, b"g" * 512)
        assert refused.value.number in {errno.EINVAL, errno.ENOSPC}
        status = pair.group("g")
        assert status["volumes"][0]["size_bytes"] == SIZES[-1]
        assert status["alarms"] == []
        # Both start again with what they have; the config is behind by now.
        for daemon in pair.daemons:
            await daemon.stop()
        await pair.start()
        assert pair.primary.events("configured_size_outgrown")
        assert (await pair.primary.nbd("g/v")).info.size_bytes == SIZES[-1]
        await pair.cut()
        assert pair.group("g")["last_cycle"]["tracks"] == 1, "what was written last"
