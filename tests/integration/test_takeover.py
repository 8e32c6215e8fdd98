"""The day of the disaster: the primary is lost, and the remote takes over."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from pathlib import Path

import pytest

from tests.support.client_commands import run
from tests.support.nbd_client import NbdReplyError
from tests.support.sites import Pair, VolumeSpec, read_all, run_cli, until

MIB = 1 << 20
TRACK = 4096
ODD = 3 * MIB + 1536
VOLUMES = [VolumeSpec("v", 8 * MIB), VolumeSpec("w", ODD)]


async def taken_over(
    pair: Pair, *options: str, **kwargs: str
) -> subprocess.CompletedProcess[str]:
    """`farshore takeover` at the remote, as an operator types it."""
    words = ("takeover", "g", *options, "--socket", pair.remote.control_socket)
    return await asyncio.to_thread(run_cli, *words, **kwargs)


async def written(pair: Pair, seed: int, count: int = 40) -> None:
    """Write at random places of both volumes at the primary, and flush."""
    chance = random.Random(seed)
    for volume in VOLUMES:
        host = await pair.primary.nbd(f"g/{volume.name}")
        for _ in range(count):
            at = chance.randrange(volume.size_bytes // 512 - 16) * 512
            await host.write(at, chance.randbytes(512 * chance.randrange(1, 17)))
        await host.trim(64 << 10, 128 << 10)
        await host.flush()
        await host.disconnect()


def primaries(pair: Pair) -> dict[str, bytes]:
    return {volume.name: pair.content(volume.name) for volume in VOLUMES}


async def served(pair: Pair, suffix: str = "") -> dict[str, bytes]:
    """Return what the remote's exports hold."""
    names = [volume.name for volume in VOLUMES]
    return {n: bytes(await pair.remote.read_whole(f"g/{n}{suffix}")) for n in names}


def alarms(pair: Pair) -> list[str]:
    """Return what the primary says is wrong."""
    return [alarm["message"] for alarm in pair.group("g")["alarms"]]


async def test_hosts_go_on_at_the_remote_and_the_old_primary_has_no_effect(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        await written(pair, 1)
        first = await pair.cut()
        before = primaries(pair)
        kept = await pair.remote.nbd(f"g/v@{first['number']}")
        await written(pair, 2)
        second = await pair.cut()
        point = primaries(pair)

        refused = await taken_over(pair, "--yes")
        assert refused.returncode == 8, refused.stdout
        assert "connected and well" in refused.stderr
        assert await served(pair) == point  # still read-only, and received into

        await written(pair, 3)
        pair.primary.call("cut", group="g", wait=False, label=None)
        pair.primary.kill()
        await until(
            lambda: pair.remote.group()["link"]["state"] != "connected",
            "the remote has noticed",
        )
        done = await taken_over(pair, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["is_done"]
        assert told["point"] >= second["number"]
        status = pair.remote.group()
        assert (status["role"], status["state"]) == ("sending", "taken_over")
        assert status["lineage"] == told["lineage"] != told["parent"]
        at_takeover = await served(pair, f"@{told['point']}")
        if told["point"] == second["number"]:  # else the last cut was safe after all
            assert at_takeover == point
        assert await served(pair) == at_takeover
        assert bytes(await read_all(kept)) == before["v"]
        with pytest.raises(NbdReplyError):
            await kept.write(0, bytes(512))  # it keeps its point, and only reads

        # A host goes on there, by a client of others.
        uri = pair.remote.uri("g/v")
        words = ("qemu-io", "-f", "raw", "-c", "write -P 0x5a 4k 300k", "-c", "flush")
        await asyncio.to_thread(run, *words, uri)
        now = {name: bytearray(data) for name, data in at_takeover.items()}
        now["v"][4096 : 304 << 10] = b"\x5a" * (300 << 10)
        host = await pair.remote.nbd("g/w")
        await host.write(ODD - 1536, b"e" * 1536)
        await host.write_zeroes(MIB, 64 << 10)
        await host.flush()
        now["w"][ODD - 1536 :] = b"e" * 1536
        now["w"][MIB : MIB + (64 << 10)] = bytes(64 << 10)
        assert await served(pair) == now
        assert await served(pair, f"@{told['point']}") == at_takeover
        assert bytes(await read_all(kept)) == before["v"]

        pair.remote.kill()
        await pair.remote.start()
        assert pair.remote.group()["state"] == "taken_over"
        assert await served(pair) == now
        assert await served(pair, f"@{told['point']}") == at_takeover

        # The old primary comes back, and is told.
        await pair.primary.start()
        await until(
            lambda: any(told["lineage"] in text for text in alarms(pair)),
            "it is told where the lines parted",
        )
        again = await taken_over(pair, "--yes", "--json")
        assert json.loads(again.stdout) == told
        assert await served(pair) == now
        await pair.remote.stop()
        await pair.remote.start()
        assert await served(pair) == now
