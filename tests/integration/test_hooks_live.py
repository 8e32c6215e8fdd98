"""Hooks of a daemon that runs: real file systems frozen for cuts, and always thawed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.attached import fuse_file, loop_device, mounted, quietly
from tests.support.client_commands import run
from tests.support.sites import REPOSITORY, Pair, VolumeSpec, run_cli, until
from tests.support.small_disk import small_disk

MIB = 1 << 20
FSFREEZE = str(REPOSITORY / "config/hooks/fsfreeze.sh")

SUPERBLOCK = 1024
INCOMPATIBLE = SUPERBLOCK + 0x60
NEEDS_RECOVERY = 0x4
"""Of an ext4 superblock: its journal has to be replayed (ext4 disk layout)."""


def freezing(place: Path, **more: object) -> dict[str, object]:
    words = [FSFREEZE, str(place)]
    hooks = {"before_cut": words, "after_cut": words, "on_failure": "skip", **more}
    return {"manual": True, "hooks": hooks}


@contextlib.contextmanager
def thawed(place: Path) -> Iterator[Path]:
    """Leave no frozen file system behind: nothing could be unmounted any more."""
    try:
        yield place
    finally:
        quietly("fsfreeze", "--unfreeze", place)


def is_frozen(place: Path) -> bool:
    """Ask without waiting: freezing what is frozen fails at once."""
    asked = subprocess.run(["fsfreeze", "--freeze", place], capture_output=True)
    if asked.returncode == 0:
        run("fsfreeze", "--unfreeze", place)
    return asked.returncode != 0


@pytest.mark.needs_root
@pytest.mark.needs_package("nbdfuse", "losetup", "mkfs.ext4", "fsfreeze")
async def test_a_frozen_file_system_needs_no_recovery_at_the_point(
    tmp_path: Path,
) -> None:
    place = tmp_path / "mount"
    written = os.urandom(100_000)
    with Pair(
        tmp_path, [VolumeSpec("v", 16 * MIB)], group=freezing(place, timeout="60s")
    ) as pair:
        await pair.start()
        with contextlib.ExitStack() as undo:

            def attach() -> Path:
                file = undo.enter_context(
                    fuse_file(tmp_path / "fuse", pair.primary.uri("g/v"))
                )
                run("mkfs.ext4", "-q", "-F", file)
                device = undo.enter_context(loop_device(file))
                undo.enter_context(mounted(device, place))
                return undo.enter_context(thawed(place))

            await asyncio.to_thread(attach)
            (place / "file").write_bytes(written)

            await pair.cut(label="frozen")

            (image,) = await pair.images(pair.remote)
            assert image.find(written[:4096]) > 0, "no sync but the freeze's"
            assert not image[INCOMPATIBLE] & NEEDS_RECOVERY
            await until(lambda: not is_frozen(place), "thawed")
            assert pair.content("v")[INCOMPATIBLE] & NEEDS_RECOVERY, "in use again"
            hooks = pair.primary.group()["hooks"]
            assert hooks["before_cut"]["runs"] == {"done": 1}


@pytest.mark.needs_root
@pytest.mark.needs_package("losetup", "mkfs.ext4", "fsfreeze")
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.hunt)]
)
async def test_what_a_daemon_has_frozen_does_not_stay_so(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Ended in the middle of a hook that has frozen and goes on."""
    frozen = tmp_path / "frozen"
    slow = tmp_path / "slow.sh"
    slow.write_text(f"#!/bin/sh\n{FSFREEZE} $1 && touch {frozen}\nexec sleep 600\n")
    slow.chmod(0o755)
    with (
        small_disk(tmp_path / "disk", 16 * MIB, "ext4") as disk,
        thawed(disk.path),
        Pair(
            tmp_path,
            [VolumeSpec("v", MIB)],
            group=freezing(
                disk.path, before_cut=[str(slow), str(disk.path)], timeout="10m"
            ),
        ) as pair,
    ):
        await pair.start()
        cutting = asyncio.create_task(
            asyncio.to_thread(run_cli, "cut", "g", "--socket", primary_socket(pair))
        )
        await until(frozen.exists, "the hook has frozen it")

        if number == signal.SIGKILL:
            pair.primary.kill()
            assert is_frozen(disk.path)
            await pair.primary.start()
            await until(lambda: not is_frozen(disk.path), "thawed at the start")
            assert pair.primary.events("hook_left_over")
        else:
            await pair.primary.stop()
            assert not is_frozen(disk.path)

        assert (await cutting).returncode != 0


def primary_socket(pair: Pair) -> str:
    return pair.primary.control_socket


async def test_a_hook_that_fails_is_said_and_its_policy_is_kept(tmp_path: Path) -> None:
    """`skip`: no point without it; hosts write on, and the next cut tries it again."""
    failing = ["/bin/sh", "-c", f"test -e {tmp_path}/well || exec false"]
    options: dict[str, Any] = {
        "manual": True,
        "hooks": {"before_cut": failing, "on_failure": "skip"},
    }
    with Pair(tmp_path, [VolumeSpec("v", MIB)], group=options) as pair:
        await pair.start()
        socket = ("--socket", primary_socket(pair))

        refused = await asyncio.to_thread(run_cli, "cut", "g", *socket)

        assert refused.returncode == 9, refused
        assert "before_cut did not succeed: it ended with exit code 1" in refused.stderr
        assert pair.committed("g") == 0
        assert [a["name"] for a in pair.primary.group()["alarms"]] == ["hook_failed"]
        (tmp_path / "well").touch()
        client = await pair.primary.nbd("g/v")
        await client.write(0, b"x" * 4096, fua=True)
        await client.disconnect()
        await pair.cut()
        assert pair.primary.group()["alarms"] == []
        await pair.cut(label="nothing has changed, and it has its point all the same")
        assert pair.committed("g") == 2
