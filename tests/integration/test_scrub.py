"""A scrub reads back what recovery would read, and names what the disk has lost."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from common.cli.exit_codes import EXIT_CODES
from common.service.control_client import CommandFailedError
from tests.support.sites import Pair, VolumeSpec, run_cli, until

MIB = 1 << 20
SIZE_BYTES = 8 * MIB
HEADER_BYTES = 4096
CODES = {kind: code for code, kind, _ in EXIT_CODES}
VOLUMES = [VolumeSpec("v", SIZE_BYTES, {"track_size": "4KiB"})]


async def scrub(pair: Pair, *options: str) -> dict[str, Any]:
    socket = ("--socket", pair.remote.control_socket)
    done = await asyncio.to_thread(run_cli, "scrub", "g", "--json", *options, *socket)
    assert done.stdout, done.stderr
    return json.loads(done.stdout) | {"exit_code": done.returncode}


async def write(pair: Pair, offset: int, length: int) -> None:
    host = await pair.primary.nbd("g/v")
    await host.write(offset, os.urandom(length), fua=True)
    await host.disconnect()


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 4]))


async def test_a_damaged_journal_is_named_with_file_and_byte(tmp_path: Path) -> None:
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        await write(pair, 0, 2 * MIB)
        await pair.cut()
        reader = await pair.remote.nbd("g/v@1")  # pins the point, and so its journal
        await write(pair, 0, MIB)
        await pair.cut()
        clean = await scrub(pair, "--rate", "64GiB/s")
        assert (clean["result"], clean["exit_code"]) == ("clean", 0)
        assert clean["read_bytes"] >= 3 * MIB
        assert clean["read_bytes"] == clean["total_bytes"] - 2 * HEADER_BYTES
        (journal,) = pair.remote.state_directory.glob("**/v@1.journal")
        flip(journal, HEADER_BYTES + 500)
        found = await scrub(pair)
        assert found["exit_code"] == CODES["differs"]
        (finding,) = found["findings"]
        assert (finding["file"], finding["offset"]) == (str(journal), HEADER_BYTES)
        (alarm,) = pair.remote.group()["alarms"]
        assert alarm["name"] == "scrub_failed"
        assert str(journal) in alarm["message"]
        assert f"byte {HEADER_BYTES}" in alarm["message"]
        assert pair.remote.group()["last_scrub"]["findings"] == 1

        await reader.disconnect()  # nobody needs it any more: the next cut drops it
        await write(pair, 0, MIB)
        await pair.cut()
        assert (await scrub(pair))["result"] == "clean"
        assert pair.remote.group()["alarms"] == []


async def test_one_at_a_time_and_it_can_be_stopped(tmp_path: Path) -> None:
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        await write(pair, 0, 4 * MIB)
        await pair.cut()
        assert pair.remote.call("scrub", group="g", action="report") is None
        pair.remote.call("scrub", group="g", action="start", rate="64KiB/s")
        await until(
            lambda: (pair.remote.group()["progress"] or {}).get("done_bytes", 0) > 0,
            "a part is read",
        )
        with pytest.raises(CommandFailedError, match="under way"):
            pair.remote.call("scrub", group="g", action="start")
        stopped = pair.remote.call("scrub", group="g", action="stop")
        assert stopped["result"] == "stopped"
        pair.remote.call("scrub", group="g", action="start", rate="64KiB/s")
        with pytest.raises(CommandFailedError, match="at the receiving site"):
            pair.primary.call("scrub", group="g", action="start")
        # A daemon that stops does not wait for it, and remembers that it ended.
        await pair.remote.stop()
        await pair.remote.start()
        report = pair.remote.call("scrub", group="g", action="report")
        assert report["reason"] == "the daemon was stopped"
        assert pair.remote.group()["last_scrub"]["result"] == "stopped"
