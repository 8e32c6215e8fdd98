"""Volumes that grow while hosts use them: real daemons, clients and devices."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import random
import subprocess
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import pytest

from demo.attached import loop_device
from tests.support.client_commands import run
from tests.support.nbd_client import NbdReplyError
from tests.support.sites import Pair, VolumeSpec, read_all, run_cli, until

MIB = 1 << 20
ODD = 4 * MIB + 1536
"""The last track is cut, and does not end with a page."""

NEW = 6 * MIB + 512

SIZES = (ODD + 512, ODD + 3 * 4096 - 1536, 9 * MIB + 512, 140 * MIB)
"""Within the last track; to its end and on; by more than a page of the bitmap."""


async def asked(
    pair: Pair, volume: str, size: int | str, *options: str
) -> subprocess.CompletedProcess[str]:
    """`farshore grow`, whatever comes of it."""
    words = (f"g/{volume}", str(size), "--json", *options)
    socket = pair.primary.control_socket
    return await asyncio.to_thread(run_cli, "grow", *words, "--socket", socket)


async def grow(
    pair: Pair, volume: str, size: int | str, *options: str
) -> dict[str, Any]:
    """`farshore grow`, as an operator types it."""
    said = await asked(pair, volume, size, *options)
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


@pytest.mark.needs_package("qemu-io", "nbdinfo", "nbdcopy")
async def test_clients_that_connect_anew_see_the_size_and_others_go_on(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, [VolumeSpec("v", ODD)]) as pair:
        await pair.start()
        uri = pair.primary.uri("g/v")
        old = await asyncio.create_subprocess_exec(
            *("qemu-io", "-f", "raw", uri), stdin=PIPE, stdout=PIPE, stderr=STDOUT
        )
        assert old.stdin is not None
        assert old.stdout is not None
        try:
            old.stdin.write(b"write -P 1 0 64k\n")
            assert b"wrote 65536" in await old.stdout.readline()
            grown = await grow(pair, "v", NEW, "--wait")
            assert grown["before_bytes"] == ODD
            for daemon in pair.daemons:
                assert await client("nbdinfo", "--size", daemon.uri("g/v")) == str(NEW)
            last = f"write -P 3 {NEW - 512} 512"
            assert "wrote 512/512" in await client(
                "qemu-io", "-f", "raw", "-c", last, uri
            )
            said, _ = await old.communicate(
                f"length\nwrite -P 2 64k {ODD - 65536}\nwrite {ODD} 512\nq\n".encode()
            )
        finally:
            if old.returncode is None:
                old.kill()
                await old.wait()
        assert f"wrote {ODD - 65536}/{ODD - 65536}".encode() in said, said
        assert b"4.001 MiB" in said, "the size that was agreed on"
        assert said.count(b"wrote") == 1, "nothing beyond that size"
        cut = await pair.cut()
        assert cut["number"] > grown["point"]
        content = pair.content("v")
        assert content[-512:] == b"\3" * 512
        assert content[64 << 10 : ODD] == b"\2" * (ODD - 65536)
        assert content[ODD:-512] == bytes(NEW - ODD - 512)
        for daemon in pair.daemons:
            copy = tmp_path / f"{daemon.role}.copy"
            await client("nbdcopy", daemon.uri("g/v"), copy)
            assert copy.read_bytes() == content
        # Without a link it grows all the same, and says so at once.
        await pair.remote.stop()
        await until(lambda: not pair.is_connected(), "the link is down")
        without = await asked(pair, "v", NEW + 512, "--wait")
        assert without.returncode == 9
        assert "grown, but no recovery point of that size" in without.stderr
        assert "has no link to its remote now" in without.stderr
        assert json.loads(without.stdout)["size_bytes"] == NEW + 512
        assert (await pair.primary.nbd("g/v")).info.size_bytes == NEW + 512


async def client(*words: object) -> str:
    """Run somebody else's client to its end; return what it said."""
    return (await asyncio.to_thread(run, *words)).strip()


def enlarge(device: Path, backing: Path, content: bytes) -> None:
    """Make what is behind a loop device longer, by something, as lvextend may."""
    with backing.open("ab") as file:
        file.write(content)
    run("losetup", "--set-capacity", device)


@pytest.mark.needs_root
@pytest.mark.needs_package("losetup")
@pytest.mark.hunt
async def test_block_devices_grow_once_they_are_enlarged_at_both_sites(
    tmp_path: Path,
) -> None:
    more = random.Random(5).randbytes(8 * MIB - ODD)
    with contextlib.ExitStack() as undo:
        pair = Pair(tmp_path, [VolumeSpec("v", ODD)])
        backing = []
        for path in (pair.device("v"), pair.secondary("v")):
            backing.append(path.with_suffix(".backing"))
            backing[-1].write_bytes(bytes(ODD))
            path.symlink_to(undo.enter_context(loop_device(backing[-1])))
        undo.enter_context(pair)
        await pair.start()
        host = await pair.primary.nbd("g/v")
        await host.write(ODD - 512, b"e" * 512)
        cut = await pair.cut()
        before = pair.content("v")
        # Too short here: nothing has changed.
        refused = await asked(pair, "v", NEW)
        assert (refused.returncode, refused.stdout) == (8, "")
        assert f"enlarge it to at least {NEW} first" in refused.stderr
        assert pair.group("g")["volumes"][0]["size_bytes"] == ODD
        # Too short at the remote: hosts have it, no point comes.
        enlarge(pair.device("v"), backing[0], more)
        without = await asked(pair, "v", NEW, "--wait")
        assert without.returncode == 9, without.stderr
        assert json.loads(without.stdout)["size_bytes"] == NEW
        assert "the remote's device can't" in without.stderr
        assert [a["name"] for a in pair.group("g")["alarms"]] == ["refused"]
        new = await pair.primary.nbd("g/v")
        assert await new.read(ODD, NEW - ODD) == more[: NEW - ODD]
        await new.write(NEW - 512, b"n" * 512)
        await host.write(0, b"h" * 512)
        assert pair.committed("g") == cut["number"]
        assert await pair.remote.read_whole("g/v") == before
        # It goes on by itself.
        enlarge(pair.secondary("v"), backing[1], bytes(8 * MIB - ODD))
        await pair.connected()
        await pair.cut()
        assert pair.group("g")["alarms"] == []
        expected = b"h" * 512 + before[512:] + more[: NEW - ODD - 512] + b"n" * 512
        assert await pair.remote.read_whole("g/v") == expected
        # Both devices are longer than their volume now.
        for daemon in pair.daemons:
            await daemon.stop()
        await pair.start()
        assert await pair.primary.read_whole("g/v") == expected
        assert await pair.remote.read_whole("g/v") == expected
