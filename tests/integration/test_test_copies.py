"""Test copies with real daemons and other people's clients."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from demo.attached import fuse_file
from tests.support.client_commands import run
from tests.support.nbd_client import NbdReplyError
from tests.support.sites import Pair, VolumeSpec, run_cli, until

MIB = 1 << 20
VOLUMES = [VolumeSpec("v", 16 * MIB), VolumeSpec("fs", 48 * MIB)]


async def copies(pair: Pair, verb: str, *options: str) -> Any:
    """Run `farshore test-copy VERB g`, as an operator does at the remote."""
    socket = ("--socket", pair.remote.control_socket)
    words = ("test-copy", verb, "g", "--json", *options, *socket)
    done = await asyncio.to_thread(run_cli, *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def write_and_cut(pair: Pair) -> None:
    host = await pair.primary.nbd("g/v")
    await host.write(0, os.urandom(MIB), fua=True)
    await host.disconnect()
    await pair.cut()


def points_held(pair: Pair) -> set[int]:
    return {point["number"] for point in pair.remote.call("points", group="g")}


def overlay_files(pair: Pair) -> list[str]:
    """Return the open files of the remote below its folders of test copies."""
    assert pair.remote.process is not None
    held = Path(f"/proc/{pair.remote.process.pid}/fd")
    found = [os.readlink(link) for link in held.iterdir()]
    return [path for path in found if "/test-copies/" in path]


@pytest.mark.needs_package(
    "qemu-io", "nbdcopy", "nbdinfo", "nbdfuse", "mkfs.ext4", "debugfs"
)
async def test_hosts_write_to_copies_while_replication_goes_on(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(48 * MIB)
    run("mkfs.ext4", "-q", image)
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        await asyncio.to_thread(run, "nbdcopy", image, pair.primary.uri("g/fs"))
        await write_and_cut(pair)
        point = pair.content("v")

        one = await copies(pair, "start")
        two = await copies(pair, "start", "--name", "two", "--point", "1")
        assert [one["name"], one["point"], two["name"]] == ["copy1", 1, "two"]
        uris = {e["volume"]: e["uris"][0] for e in one["exports"]}
        listed = await asyncio.to_thread(
            run, "nbdinfo", "--list", "--json", f"{pair.remote.uri('')}"
        )
        names = {each["export-name"] for each in json.loads(listed)["exports"]}
        assert {"g/v+copy1", "g/fs+copy1", "g/v+two", "g/fs+two"} < names

        qemu = ("qemu-io", "-f", "raw", "-t", "none")
        writes = ("-c", "write -P 7 1000 5000", "-c", "write -f -P 8 1M 64k")
        trims = ("-c", "discard 2M 1M", "-c", "write -z 4100 9000", "-c", "flush")
        await asyncio.to_thread(run, *qemu, *writes, *trims, uris["v"])
        await write_and_cut(pair)  # cycles go on, and are applied
        await write_and_cut(pair)

        wanted = bytearray(point)
        wanted[1000:6000] = b"\7" * 5000
        wanted[MIB : MIB + 65536] = b"\x08" * 65536
        wanted[2 * MIB : 3 * MIB] = bytes(MIB)
        wanted[4100:13100] = bytes(9000)
        out = tmp_path / "out"
        await asyncio.to_thread(run, "nbdcopy", uris["v"], out)
        assert out.read_bytes() == wanted
        assert await pair.remote.read_whole("g/v+copy1", sparse=True) == wanted
        assert await pair.remote.read_whole("g/v+two") == point
        assert await pair.remote.read_whole("g/v") == pair.content("v")

        with fuse_file(tmp_path / "fuse", uris["fs"]) as fuse:
            script = tmp_path / "script"
            script.write_text(f"write {script} kept\n")
            await asyncio.to_thread(run, "debugfs", "-w", "-f", script, fuse)
            await asyncio.to_thread(run, "e2fsck", "-fn", fuse)
            told = await asyncio.to_thread(run, "debugfs", "-R", "stat /kept", fuse)
            assert f"Size: {script.stat().st_size}" in told

        assert await pair.remote.read_whole("g/fs") == pair.content("fs")
        assert pair.remote.group()["test_copies"] == ["copy1", "two"]
        assert len(overlay_files(pair)) == 4
        assert {1, 3} <= points_held(pair), "2 goes whenever it is thinned out"

        host = await pair.remote.nbd("g/v+copy1")  # is sent away
        stopped = await copies(pair, "stop", "--name", "copy1")
        assert stopped["connections"] == 1
        assert stopped["bytes"] > 0
        with pytest.raises(ConnectionError):
            await host.read(0, 512)
        await copies(pair, "stop")
        assert await copies(pair, "list") == []
        assert overlay_files(pair) == []
        await write_and_cut(pair)  # frees what only the copies kept
        await until(lambda: points_held(pair) == {4}, "nothing else is kept")
        folder = pair.remote.state_directory / "journal/g/test-copies"
        assert list(folder.iterdir()) == []


async def test_a_copy_ends_with_its_daemon_and_says_so(tmp_path: Path) -> None:
    with Pair(tmp_path, VOLUMES[:1]) as pair:
        await pair.start()
        await write_and_cut(pair)
        await copies(pair, "start")
        host = await pair.remote.nbd("g/v+copy1")
        await host.write(0, b"x" * 4096, fua=True)
        pair.remote.kill()
        await pair.remote.start()
        assert await copies(pair, "list") == []
        await pair.connected()
        await copies(pair, "start")
        assert await pair.remote.read_whole("g/v+copy1") == pair.content("v")
        await pair.remote.stop()  # does not wait for anybody to stop it


@pytest.mark.hunt
async def test_copies_outlive_a_takeover_and_can_be_made_after_it(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, VOLUMES[:1]) as pair:
        await pair.start()
        await write_and_cut(pair)
        point = pair.content("v")
        await copies(pair, "start", "--name", "before")
        pair.primary.kill()
        socket = ("--socket", pair.remote.control_socket)
        done = await asyncio.to_thread(run_cli, "takeover", "g", "--yes", *socket)
        assert done.returncode == 0, done.stderr
        host = await pair.remote.nbd("g/v")
        await host.write(0, b"x" * MIB, fua=True)
        await host.disconnect()
        await copies(pair, "start", "--name", "after", "--point", "1")
        assert pair.remote.group()["test_copies"] == ["before", "after"]
        for name in ("before", "after"):
            assert await pair.remote.read_whole(f"g/v+{name}") == point
            await copies(pair, "stop", "--name", name)
        assert overlay_files(pair) == []


async def test_without_room_only_the_copy_is_refused(tmp_path: Path) -> None:
    with Pair(tmp_path, VOLUMES[:1]) as pair:
        text = pair.remote.config_path.read_text()
        text += '[group.test_copies]\nreserve = "1PiB"\n'
        pair.remote.config_path.write_text(text)
        await pair.start()
        await write_and_cut(pair)
        await copies(pair, "start")
        host = await pair.remote.nbd("g/v+copy1")
        with pytest.raises(NbdReplyError) as refused:
            await host.write(0, b"x" * 4096)
        assert refused.value.number == errno.ENOSPC
        assert await host.read(0, MIB) == pair.content("v")[:MIB]
        await write_and_cut(pair)
        await until(
            lambda: pair.remote.group()["recovery_point"]["number"] == 2, "it goes on"
        )
        assert pair.remote.group()["alarms"] == []
        await host.disconnect()
