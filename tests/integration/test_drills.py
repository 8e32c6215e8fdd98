"""Drills: a test copy, the operator's probe, the verdict, and what is kept of it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common.cli.exit_codes import EXIT_CODES
from tests.support.client_commands import run
from tests.support.sites import (
    PATIENCE_SECONDS,
    REPOSITORY,
    Pair,
    VolumeSpec,
    command_path,
    run_cli,
    until,
)

MIB = 1 << 20
CODES = {kind: code for code, kind, _ in EXIT_CODES}
PROBES = REPOSITORY / "config/probes"


def script(directory: Path, name: str, *lines: str) -> Path:
    """Write a probe."""
    path = directory / name
    path.write_text("\n".join(["#!/bin/sh", "set -eu", *lines, ""]))
    path.chmod(0o755)
    return path


async def drill(pair: Pair, *options: object) -> dict[str, Any]:
    """Hold a drill, as an operator does; its record, with the command's exit code."""
    words = [str(option) for option in options]
    socket = ("--socket", pair.remote.control_socket)
    done = await asyncio.to_thread(run_cli, "drill", "g", "--json", *words, *socket)
    assert done.stdout, done.stderr
    return json.loads(done.stdout) | {"code": done.returncode, "told": done.stderr}


async def no_copy_is_left(pair: Pair) -> None:
    assert pair.remote.call("test-copy", group="g", action="list") == []
    points = pair.remote.call("points", group="g")
    assert not any(point["pinned"] for point in points)


@pytest.mark.needs_package("nbdinfo")
async def test_the_probe_s_verdict_is_told_and_kept(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", MIB), VolumeSpec("w.x", 2 * MIB)]) as pair:
        await pair.start()
        none = await drill(pair, "--probe", "/bin/true")
        assert (none["verdict"], none["code"]) == ("not_started", CODES["drill"])
        assert "no recovery point" in none["reason"]
        await pair.cut(label="before")

        good = script(
            tmp_path,
            "good",
            'test "$FARSHORE_GROUP $FARSHORE_POINT" = "g 1"',
            'test "$FARSHORE_LABEL" = before',
            f'test "$(nbdinfo --size "$FARSHORE_URI_V")" = {MIB}',
            f'test "$(nbdinfo --size "$FARSHORE_URI_W_X")" = {2 * MIB}',
            'test "$(printf %s "$FARSHORE_URIS" | wc -l)" = 2',
            'test -z "${FARSHORE_URI:-}"',
            "echo looked at both",
        )
        passed = await drill(pair, "--probe", good)
        assert (passed["verdict"], passed["code"]) == ("passed", 0), passed
        assert passed["point"] == 1
        assert "looked at both" in passed["told"]
        assert None not in {passed[f"{what}_seconds"] for what in ("age", "start")}
        assert pair.remote.group()["last_drill"]["verdict"] == "passed"

        bad = script(tmp_path, "bad", "exit 3")
        failed = await drill(pair, "--probe", bad, "--point", "1")
        assert (failed["verdict"], failed["exit_code"]) == ("failed", 3)
        assert failed["code"] == CODES["drill"]
        missing = await drill(pair, "--probe", tmp_path / "nowhere")
        assert "cannot be run" in missing["reason"]
        assert missing["verdict"] == "failed"

        slow = script(tmp_path, "slow", "sleep 1000 & wait")
        ended = await drill(pair, "--probe", slow, "--timeout", "200ms")
        assert ended["verdict"] == "timed_out"
        await no_copy_is_left(pair)

        pair.remote.kill()
        await pair.remote.start()
        kept = pair.remote.call("drill", group="g", action="list")
        verdicts = [each["verdict"] for each in kept]
        assert verdicts == ["timed_out", "failed", "failed", "passed", "not_started"]
        assert pair.remote.group()["last_drill"]["verdict"] == "timed_out"
        table = run_cli("drill", "g", "--list", "--socket", pair.remote.control_socket)
        assert "timed out" in table.stdout
        with pytest.raises(Exception, match="at the receiving site"):
            pair.primary.call("drill", group="g", action="list")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.hunt
async def test_an_interrupted_drill_ends_its_probe_and_its_copy(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", MIB)]) as pair:
        await pair.start()
        await pair.cut()
        mark = tmp_path / "pid"
        slow = script(tmp_path, "slow", f"sleep 1000 & echo $! > {mark}; wait")
        socket = ("--socket", pair.remote.control_socket)
        words = [command_path("farshore"), "drill", "g", "--probe", str(slow), *socket]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        try:
            await until(
                lambda: mark.exists() and mark.read_text().endswith("\n"), "the probe"
            )
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()
        assert code == CODES["interrupted"]
        pid = int(mark.read_text())
        await until(lambda: not is_running(pid), "what the probe started is ended")
        assert pair.remote.group()["last_drill"]["verdict"] == "interrupted"
        await no_copy_is_left(pair)


@pytest.mark.hunt
@pytest.mark.needs_package("nbdfuse", "nbdcopy", "mkfs.ext4", "debugfs")
async def test_the_sample_probe_knows_a_file_system_with_a_fault(
    tmp_path: Path,
) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    run("mkfs.ext4", "-q", image)
    with Pair(tmp_path, [VolumeSpec("fs", 32 * MIB)]) as pair:
        await pair.start()
        await asyncio.to_thread(run, "nbdcopy", image, pair.primary.uri("g/fs"))
        await pair.cut()
        probe = PROBES / "fsck-ext4.sh"
        passed = await drill(pair, "--probe", probe)
        assert (passed["verdict"], passed["code"]) == ("passed", 0), passed
        assert "fs: good" in passed["told"]

        run("debugfs", "-w", "-R", "clri <2>", image)  # the root directory is gone
        await asyncio.to_thread(run, "nbdcopy", image, pair.primary.uri("g/fs"))
        await pair.cut()
        failed = await drill(pair, "--probe", probe)
        assert failed["verdict"] == "failed", failed
        await no_copy_is_left(pair)
