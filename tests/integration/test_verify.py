"""`farshore verify`: what differs is named and mended, what is equal never called so.

Real daemons. Hosts write at full speed and cycles follow each other all the while; the
secondary is altered behind the remote's back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.cli.exit_codes import EXIT_CODES
from common.service.control_client import CommandFailedError
from tests.support.cut_oracle import SECTOR_BYTES, History
from tests.support.sites import Pair, VolumeSpec, free_port, run_cli, until
from tests.support.stamping_writers import Mix, StampingWriter, connect_writers
from tests.support.tcp_proxy import TcpProxy

SEED = int(os.environ.get("FARSHORE_SEED", "1"))
VERIFIES = int(os.environ.get("FARSHORE_VERIFIES", "3"))
MIB = 1 << 20
TRACK_BYTES = 4096
CODES = {kind: code for code, kind, _ in EXIT_CODES}
FAST = "64GiB/s"
WRITTEN_SECTORS = 4 * MIB // SECTOR_BYTES
"""Where hosts write: what is altered lies behind it, so that only a repair mends it."""

VOLUMES = [
    VolumeSpec("big", 12 * MIB + 512, {"track_size": "4KiB"}),
    VolumeSpec("small", 4 * MIB, {"track_size": "4KiB"}),
]
OFTEN: dict[str, object] = {"interval": "100ms"}


async def verify(pair: Pair, *options: str, rate: str = FAST) -> dict[str, Any]:
    """`farshore verify --json`; the exit code is in the answer."""
    socket = ("--socket", pair.primary.control_socket)
    arguments = ("verify", "g", "--json", "--rate", rate, *options, *socket)
    done = await asyncio.to_thread(run_cli, *arguments)
    assert done.stdout, done.stderr
    return json.loads(done.stdout) | {"exit_code": done.returncode}


def flip(path: Path, offset: int) -> None:
    """Alter one byte behind everybody's back."""
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 0x20]))


@contextlib.asynccontextmanager
async def writing(pair: Pair, mix: Mix | None = None) -> AsyncIterator[None]:
    mix = mix or Mix(sectors_max=WRITTEN_SECTORS)
    writers: list[StampingWriter] = []
    try:
        writers = await connect_writers(pair, History(), SEED, count=3, mix=mix)
        for writer in writers:
            writer.start()
        yield
        for writer in writers:
            writer.check()
            await writer.stop()
    finally:
        for writer in writers:
            writer.abort()


async def fill(pair: Pair) -> None:
    """Write something into every volume, and have a first point."""
    for export, spec in zip(pair.exports, pair.volumes, strict=True):
        host = await pair.primary.nbd(export)
        for offset in range(0, spec.size_bytes - MIB, 2 * MIB):
            await host.write(offset, os.urandom(MIB), fua=False)
        await host.disconnect()
    await pair.cut()


async def test_a_flipped_byte_is_named_repaired_and_gone(tmp_path: Path) -> None:
    at = 10 * MIB + 5 * TRACK_BYTES + 17
    end = 12 * MIB + 511
    with Pair(tmp_path, VOLUMES, group=OFTEN) as pair:
        await pair.start()
        await fill(pair)
        async with writing(pair):
            assert (await verify(pair))["result"] == "clean"
            flip(pair.secondary("big"), at)
            flip(pair.secondary("big"), end)
            expected = [
                {
                    "volume": "big",
                    "offset": 10 * MIB + 5 * TRACK_BYTES,
                    "length": TRACK_BYTES,
                },
                {"volume": "big", "offset": 12 * MIB, "length": 512},
            ]
            found = await verify(pair)
            assert found["differing"] == expected
            assert found["differing_bytes"] == TRACK_BYTES + 512
            assert found["exit_code"] == CODES["differs"]
            (alarm,) = pair.group("g")["alarms"]
            assert alarm["name"] == "verify_mismatch"
            assert "g/big 10506240+4096" in alarm["message"]

            repaired = await verify(pair, "--repair")
            assert repaired["differing"] == expected
            assert repaired["result"] == "repairing"
            assert repaired["exit_code"] == CODES["differs"]
            await pair.cut()
            clean = await verify(pair)
            assert (clean["result"], clean["exit_code"]) == ("clean", 0)
            assert clean["compared_bytes"] == sum(v.size_bytes for v in VOLUMES)
        status = pair.group("g")
        assert status["alarms"] == []
        assert status["last_verify"]["result"] == "clean"
        await pair.cut()
        for name in ("big", "small"):
            assert pair.secondary(name).read_bytes() == pair.content(name)


async def test_sites_that_are_equal_are_never_called_different(tmp_path: Path) -> None:
    """Writers all over the volumes, ten cuts a second, several verifies in a row."""
    with Pair(tmp_path, VOLUMES, group=OFTEN) as pair:
        await pair.start()
        await fill(pair)
        first = pair.committed("g")
        async with writing(pair, Mix(hot=0.3)):
            for turn in range(VERIFIES):
                rate = FAST if turn % 2 else "16MiB/s"
                found = await verify(pair, rate=rate)
                assert found["differing"] == found["unreadable"] == [], found
                assert found["result"] == "clean", found
        ended = pair.primary.events("verify_ended")
        assert len(ended) == VERIFIES
        assert pair.committed("g") - first >= 5 * VERIFIES


@pytest.mark.hunt
async def test_a_verify_goes_on_after_the_link_was_lost(tmp_path: Path) -> None:
    port = free_port()
    with Pair(tmp_path, VOLUMES, group=OFTEN, link_port=port) as pair:
        proxy = TcpProxy(pair.replication_port)
        await proxy.start(port)
        try:
            await pair.start()
            await fill(pair)
            flip(pair.secondary("big"), 11 * MIB)
            async with writing(pair):
                verifying = asyncio.create_task(verify(pair, rate="16MiB/s"))
                for turn in (1, 2, 3):
                    await until(
                        lambda least=turn * 3 * MIB: compared(pair) > least,
                        "a part is compared",
                    )
                    proxy.reset()
                    await until(
                        lambda least=turn: (
                            len(pair.primary.events("link_lost")) >= least
                        ),
                        "the loss is noticed",
                    )
                assert not verifying.done()
                found = await verifying
            assert [each["offset"] for each in found["differing"]] == [11 * MIB]
        finally:
            await proxy.close()


def compared(pair: Pair) -> int:
    progress = pair.group("g")["progress"]
    if progress is None or progress["operation"] != "verify":
        return 0
    return int(progress["done_bytes"])


@pytest.mark.hunt
async def test_a_verify_outlives_the_remote_but_not_the_primary(tmp_path: Path) -> None:
    with Pair(tmp_path, VOLUMES, group=OFTEN) as pair:
        await pair.start()
        await fill(pair)
        verifying = asyncio.create_task(verify(pair, rate="4MiB/s"))
        await until(lambda: compared(pair) > 2 * MIB, "a part is compared")
        pair.remote.kill()
        await pair.remote.start()
        assert (await verifying)["result"] == "clean"
        ended = pair.primary.call("verify", group="g", action="report")

        answer = pair.primary.call("verify", group="g", action="start", rate="1MiB/s")
        assert answer["result"] is None
        await until(lambda: compared(pair) > 0, "a part is compared")
        pair.primary.kill()
        await pair.primary.start()
        # Of the one that was under way nothing is known, of the one before all.
        assert pair.primary.call("verify", group="g", action="report") == ended
        assert pair.group("g")["last_verify"]["result"] == "clean"
        await pair.connected()
        assert (await verify(pair))["result"] == "clean"


async def test_an_idle_group_is_compared_at_a_cut_of_its_own(tmp_path: Path) -> None:
    """After a restart no FlashCopy stands and nothing changes: yet it is compared."""
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        await fill(pair)
        before = pair.committed("g")
        await pair.primary.stop()
        await pair.primary.start()
        await pair.connected()
        flip(pair.secondary("small"), 3)
        found = await verify(pair)
        assert [each["volume"] for each in found["differing"]] == ["small"]
        assert pair.committed("g") == before + 1
        assert (await verify(pair))["result"] == "differs"
        assert pair.committed("g") == before + 1, "the cut stands for the next one"


async def test_a_repair_that_was_told_outlives_a_kill(tmp_path: Path) -> None:
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        await fill(pair)
        flip(pair.secondary("big"), 2 * MIB)
        assert (await verify(pair, "--repair"))["result"] == "repairing"
        alarms = pair.group("g")["alarms"]
        pair.primary.kill()
        await pair.primary.start()
        await pair.connected()
        (alarm,) = pair.group("g")["alarms"]
        assert alarm["name"] == "verify_mismatch"
        assert alarm["message"] == alarms[0]["message"]
        await pair.cut()
        assert (await verify(pair))["result"] == "clean"
        assert pair.secondary("big").read_bytes() == pair.content("big")


async def test_what_makes_no_sense_is_refused_with_the_reason(tmp_path: Path) -> None:
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()

        def refused(**arguments: Any) -> str:
            with pytest.raises(CommandFailedError) as error:
                pair.primary.call("verify", group="g", **arguments)
            assert error.value.exit_code == CODES["refused"]
            return str(error.value)

        assert "no recovery point yet" in refused(action="start")
        await fill(pair)
        assert "rate" in refused(action="start", rate="1KiB/s")
        assert "rate" in refused(action="start", rate="fast")
        pair.primary.call("verify", group="g", action="start", rate="1MiB/s")
        assert "is under way" in refused(action="start")
        pair.primary.call("suspend", group="g")
        await until(
            lambda: (
                pair.primary.call("verify", group="g", action="report")["result"]
                is not None
            ),
            "the verify ends with the suspension",
        )
        report = pair.primary.call("verify", group="g", action="report")
        assert report["result"] == "failed"
        assert "farshore resume g" in report["reason"]
        assert "suspended" in refused(action="start")
        pair.primary.call("resume", group="g")
        await pair.cut()
        pair.primary.call("verify", group="g", action="start", rate="1MiB/s")
        stopped = pair.primary.call("verify", group="g", action="stop")
        assert (stopped["result"], stopped["reason"]) == ("stopped", "it was stopped")
        pair.primary.call("verify", group="g", action="start", rate="1MiB/s")
        size_bytes = VOLUMES[1].size_bytes + 512
        pair.primary.call("grow", group="g", volume="small", size_bytes=size_bytes)
        ended = pair.primary.call("verify", group="g", action="report")
        assert ended["result"] == "stopped"
        assert ended["reason"] == "volume small grows: begin anew"
        with pytest.raises(CommandFailedError, match="sending site"):
            pair.remote.call("verify", group="g", action="start")
