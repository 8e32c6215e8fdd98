"""Every documented exit code, as a real `farshore` command ends with it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from pathlib import Path

from common.cli.exit_codes import NEXT_COMMANDS
from tests.support.sites import (
    REPOSITORY,
    Pair,
    VolumeSpec,
    command_path,
    run_cli,
    until,
)

MIB = 1 << 20
PAGE = REPOSITORY / "docs/reference/exit-codes.md"
SLOW = "64KiB/s"
USAGE, INTERNAL, INTERRUPTED = 2, 70, 130
SAID_OTHERWISE = {0, USAGE, INTERNAL, INTERRUPTED}
"""The others are one sentence, which begins with `farshore: `."""

BROKEN = """
from common.service.control_client import ControlClient

def broken(client, *arguments, **options):
    raise ZeroDivisionError("injected")

ControlClient.call = broken
"""

Done = subprocess.CompletedProcess[str]


class Commands:
    """Runs commands; `ended` has the codes that were seen, each with its command."""

    def __init__(self, pair: Pair, directory: Path) -> None:
        self.pair = pair
        self.directory = directory
        self.ended: dict[int, str] = {}
        self.at_primary = ("--socket", pair.primary.control_socket)
        self.at_remote = ("--socket", pair.remote.control_socket)
        self.of_primary = ("--config", str(pair.primary.config_path))
        self.of_remote = ("--config", str(pair.remote.config_path))
        self.state = str(pair.remote.state_directory)

    async def ends(self, code: int, *words: str) -> Done:
        done = await asyncio.to_thread(run_cli, *words)
        self.look_at(code, done, words)
        return done

    def look_at(self, code: int, done: Done, words: tuple[str, ...]) -> None:
        said = f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.returncode == code, said
        if code not in SAID_OTHERWISE:
            assert re.search(r"^farshore: .+", done.stderr, re.MULTILINE), said
            assert "Traceback" not in done.stderr, said
        if (following := NEXT_COMMANDS.get(code)) is not None:
            assert f"next: {following}\n" in done.stderr, said
        self.ended[code] = " ".join(words)


def documented() -> set[int]:
    rows = re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    return {int(row) for row in rows}


async def test_every_documented_exit_code_is_what_some_command_ends_with(
    tmp_path: Path,
) -> None:
    refusing = tmp_path / "refuse"
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ntest ! -e {refusing}\n")
    hook.chmod(0o755)
    hooks = {"before_cut": [str(hook)], "on_failure": "skip"}
    group: dict[str, object] = {"manual": True, "hooks": hooks}
    with Pair(tmp_path, [VolumeSpec("v", 8 * MIB)], group=group) as pair:
        commands = Commands(pair, tmp_path)
        await without_daemons(commands)
        pair.device("v").write_bytes(os.urandom(8 * MIB))
        await pair.start()
        await with_both_daemons(commands, refusing)
        await with_the_remote_alone(commands)
        assert set(commands.ended) == documented(), "a code without its command"


async def without_daemons(commands: Commands) -> None:
    """What is refused before any daemon is asked."""
    directory, pair = commands.directory, commands.pair
    wrong, new = directory / "wrong.toml", str(directory / "new")
    wrong.write_text(pair.primary.config_path.read_text() + "\n[nonsense]\n")
    await commands.ends(1, "plan", "--from", str(directory / "none"))
    await commands.ends(USAGE, "cut", "g", "--nonsense")
    await commands.ends(3, "config", "check", str(wrong))
    await commands.ends(4, "init", new, "--volume", f"data={directory / 'none'}")
    await commands.ends(7, "status", *commands.at_primary)
    await commands.ends(15, "doctor", "--config", str(wrong))


async def with_both_daemons(commands: Commands, refusing: Path) -> None:
    pair = commands.pair
    await commands.ends(0, "cut", "g", "--wait", *commands.at_primary)
    await commands.ends(5, "restore", commands.state)
    await commands.ends(8, "cut", "nosuch", *commands.at_primary)
    await commands.ends(14, "drill", "g", "--probe", "/bin/false", *commands.at_remote)
    refusing.touch()
    await commands.ends(9, "cut", "g", "--wait", *commands.at_primary)
    refusing.unlink()
    await internal_error(commands)
    await interrupted_verify(commands)
    await commands.ends(0, "verify", "g", "--stop", *commands.at_primary)
    await until(lambda: not is_verifying(pair), "it has ended")
    await commands.ends(13, "verify", "g", "--report", *commands.at_primary)
    with pair.secondary("v").open("r+b") as secondary:
        secondary.seek(4096)
        secondary.write(b"altered behind everybody's back")
    await commands.ends(12, "verify", "g", *commands.at_primary)


def is_verifying(pair: Pair) -> bool:
    report = pair.primary.call("verify", group="g", action="report")
    return report is not None and report["result"] is None


async def interrupted_verify(commands: Commands) -> None:
    """Ctrl-C, once the command waits for what it has begun."""
    words = ("verify", "g", "--rate", SLOW, *commands.at_primary)
    # A test that was started in the background has Ctrl-C ignored.
    command = ["env", "--default-signal=INT", command_path("farshore"), *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        await until(lambda: is_verifying(commands.pair), "it is begun")
        process.send_signal(signal.SIGINT)
        out, error = await asyncio.to_thread(process.communicate)
    finally:
        process.kill()
        process.wait()
    done = subprocess.CompletedProcess(command, process.returncode, out, error)
    commands.look_at(INTERRUPTED, done, words)


async def internal_error(commands: Commands) -> None:
    """A bug of ours: there is none that we know, so one is put into the command."""
    injected = commands.directory / "injected"
    injected.mkdir()
    (injected / "sitecustomize.py").write_text(BROKEN)
    words = ("status", *commands.at_primary)
    done = await asyncio.to_thread(
        subprocess.run,
        [
            *("env", f"PYTHONPATH={injected}:{REPOSITORY}"),
            *(command_path("farshore"), *words),
        ],
        capture_output=True,
        text=True,
    )
    commands.look_at(INTERNAL, done, words)
    assert "ZeroDivisionError: injected" in done.stderr


async def with_the_remote_alone(commands: Commands) -> None:
    """What disks and files say, first beside the remote's daemon, then without it."""
    pair, directory = commands.pair, commands.directory
    await pair.primary.stop()
    await until(
        lambda: pair.remote.group()["link"]["state"] != "connected",
        "the remote has noticed",
    )
    told = await commands.ends(0, "identity", "g", *commands.at_remote)
    identity = directory / "identity.json"
    identity.write_text(json.dumps(json.loads(told.stdout) | {"group": "other"}))
    adopt = ("adopt", "g", "--identity", str(identity), "--yes")
    await commands.ends(6, *adopt, *commands.of_primary)
    await pair.remote.stop()
    await no_room(commands)
    record = pair.remote.state_directory / "groups/g/store"
    record.write_bytes(os.urandom(record.stat().st_size))
    await commands.ends(11, "restore", commands.state)


async def no_room(commands: Commands) -> None:
    """A file system that takes nothing more, by a limit that root has, too."""
    target = str(commands.directory / "copy.img")
    words = ("restore", commands.state, "g/v", "--to", target, *commands.of_remote)
    done = await asyncio.to_thread(
        subprocess.run,
        ["prlimit", "--fsize=4096", command_path("farshore"), *words],
        capture_output=True,
        text=True,
    )
    commands.look_at(10, done, words)
    assert not Path(target).exists()
