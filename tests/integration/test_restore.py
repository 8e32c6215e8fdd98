"""What a bare host makes of a remote's disks: `farshore restore`, without a daemon."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from common.cli.exit_codes import EXIT_CODES
from common.nbd.protocol import TransmissionFlag
from tests.support.client_commands import run
from tests.support.nbd_client import NbdClient
from tests.support.sites import (
    PATIENCE_SECONDS,
    Pair,
    VolumeSpec,
    command_path,
    read_all,
    run_cli,
    until,
)

MIB = 1 << 20
CODES = {kind: code for code, kind, _ in EXIT_CODES}


def fingerprint(*roots: Path) -> dict[str, tuple[int, str]]:
    """Return each file's time of change and digest, folders' times too."""
    found = {}
    for root in roots:
        for path in sorted([root, *root.rglob("*")]) if root.is_dir() else [root]:
            content = b"" if path.is_dir() else path.read_bytes()
            digest = hashlib.blake2b(content).hexdigest()
            found[str(path)] = (path.stat().st_mtime_ns, digest)
    return found


def journal_bytes(pair: Pair) -> int:
    return sum(p.stat().st_size for p in pair.remote.state_directory.rglob("v@*"))


async def killed_within_a_cycle(pair: Pair) -> bytes:
    """Have the remote killed with some of a cycle applied; return its newest point.

    The rate of the link lets no more than a part of the cycle across.
    """
    host = await pair.primary.nbd("g/v")
    await host.write(0, os.urandom(MIB), fua=True)
    await pair.cut(label="the good one")
    point = pair.content("v")
    before = journal_bytes(pair)
    await host.write(MIB // 2, os.urandom(3 * MIB), fua=True)
    await host.disconnect()
    pair.primary.call("cut", group="g", wait=False)
    await until(lambda: journal_bytes(pair) > before, "a part of it is applied")
    pair.remote.kill()
    return point


async def test_a_point_is_restored_from_the_disks_alone(tmp_path: Path) -> None:
    volumes = [VolumeSpec("v", 8 * MIB, {"track_size": "4KiB"})]
    with Pair(tmp_path, volumes, link={"bandwidth": "512KiB/s"}) as pair:
        await pair.start()
        with_daemon = run_cli("restore", str(pair.remote.state_directory))
        assert with_daemon.returncode == CODES["busy"], with_daemon
        point = await killed_within_a_cycle(pair)
        await pair.primary.stop()

        # Elsewhere, its parts at other places, and the lock not copied.
        state, journals = tmp_path / "copy", tmp_path / "journals"
        shutil.copytree(pair.remote.state_directory, state)
        shutil.move(state / "journal", journals)
        (state / "lock").unlink()
        device = tmp_path / "device"
        shutil.copy2(pair.secondary("v"), device)
        before = fingerprint(state, journals, device)

        listed = json.loads(run_cli("restore", str(state), "--json").stdout)
        (found,) = listed[0]["points"]
        assert (listed[0]["group"], found["number"]) == ("g", 1)
        assert found["label"] == "the good one"
        assert "the good one" in run_cli("restore", str(state)).stdout

        out = tmp_path / "out"
        words = ("restore", str(state), "g/v", "--to", str(out))
        places = ("--device", f"g/v={device}", "--journals", str(journals))
        lost = run_cli(*words)
        assert lost.returncode == CODES["config"]
        assert "--device g/v=PATH" in lost.stderr
        done = run_cli(*words, *places)
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == point
        assert out.stat().st_blocks * 512 < 2 * MIB, "holes stay holes"

        # The original, where the config says that things are.
        config = ("--config", str(pair.remote.config_path))
        other = tmp_path / "other"
        there = ("restore", str(pair.remote.state_directory), "g/v", "--point", "1")
        done = run_cli(*there, "--to", str(other), *config)
        assert done.returncode == 0, done.stderr
        assert other.read_bytes() == point
        assert fingerprint(state, journals, device) == before

        await pair.remote.start()  # nothing of it was touched: it goes on
        assert await pair.remote.read_whole("g/v@1") == point


@pytest.mark.needs_root
@pytest.mark.hunt
async def test_a_site_on_read_only_media_is_served(tmp_path: Path) -> None:
    volumes = [VolumeSpec("v", 8 * MIB, {"track_size": "4KiB"})]
    with Pair(tmp_path, volumes, link={"bandwidth": "512KiB/s"}) as pair:
        await pair.start()
        point = await killed_within_a_cycle(pair)
        await pair.primary.stop()
        media = tmp_path / "media"
        media.mkdir()
        run("mount", "--bind", tmp_path, media)
        try:
            run("mount", "-o", "remount,bind,ro", media)
            socket = f"{Path(pair.remote.nbd_socket).parent}/restore"
            words = [
                *(command_path("farshore"), "restore", str(media / "remote-state")),
                *("--device", f"g/v={media / pair.secondary('v').name}"),
                *("--serve", f"unix:{socket}"),
            ]
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            try:
                await until(
                    lambda: os.path.exists(socket) or process.poll() is not None,
                    "it serves",
                )
                client = await NbdClient.connect(f"unix:{socket}", "g/v@1")
                assert client.info.flags & TransmissionFlag.READ_ONLY
                assert await read_all(client, sparse=True) == point
                await client.disconnect()
                process.send_signal(signal.SIGTERM)
                said, _ = await asyncio.to_thread(
                    process.communicate, timeout=PATIENCE_SECONDS
                )
            finally:
                process.kill()
                process.wait()
            assert process.returncode == 0
            assert f"nbd+unix:///g/v@1?socket={socket}" in said
        finally:
            run("umount", media)
