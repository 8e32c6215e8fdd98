"""Mistakes of operators and garbage of strangers: one sentence, and no harm done."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from common.cli.exit_codes import EXIT_CODES
from common.storage.files import SystemFiles
from common.storage.record import DurableRecord
from tests.support.sites import Daemon, Pair, VolumeSpec, until

MIB = 1 << 20
SIZE_BYTES = 4 * MIB

CODES = {kind: code for code, kind, _ in EXIT_CODES}
SENTENCE_CHARACTERS_MAX = 500


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Both sites' configs; nothing runs yet."""
    with Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)]) as made:
        yield made


def on_disk(directory: Path) -> dict[str, str]:
    """Return every path below with its kind, size and content's hash."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if name.endswith(".log"):
            continue
        if path.is_file():
            digest = hashlib.blake2b(path.read_bytes()).hexdigest()
            found[name] = f"{path.stat().st_mode:o} {digest}"
        else:
            found[name] = f"{path.stat().st_mode:o}"
    return found


async def refused(daemon: Daemon, kind: str, *needed: str) -> str:
    """Start a daemon that must refuse to: one sentence, its code, nothing changed."""
    directory = daemon.config_path.parent
    before, logged = on_disk(directory), len(daemon.log_text())
    daemon.spawn()
    code = await daemon.ended()
    said = daemon.log_text()[logged:]
    assert code == CODES[kind], said
    lines = said.strip().splitlines()
    sentence = lines[-1]
    assert len(lines) == 1, said
    assert sentence.startswith(f"farshore-{daemon.role}: ")
    assert len(sentence) < SENTENCE_CHARACTERS_MAX
    for text in needed:
        assert text in sentence, f"{text!r} is not in: {sentence}"
    assert on_disk(directory) == before, "something was changed on disk"
    return sentence


def edit(daemon: Daemon, old: str, new: str) -> None:
    text = daemon.config_path.read_text()
    assert old in text
    daemon.config_path.write_text(text.replace(old, new))


Sabotage = Callable[[Pair], None]

CONFIG_MISTAKES: dict[str, tuple[Sabotage, list[str]]] = {
    "an unknown key": (
        lambda pair: edit(pair.primary, "manual = true", "manuel = true"),
        ["group[g].manuel", "manual"],
    ),
    "a bad unit": (
        lambda pair: edit(pair.primary, f'"{SIZE_BYTES}B"', '"4MB"'),
        ["group[g].volume[v].size", "4MB", "64KiB"],
    ),
    "two triggers": (
        lambda pair: edit(pair.primary, "manual = true", 'manual = true\nrpo = "1s"'),
        ["group[g]", "rpo", "manual", "keep"],
    ),
    "plain text not allowed": (
        lambda pair: edit(pair.primary, "allow_plaintext_replication = true", ""),
        ["group[g].link", "allow_plaintext_replication = true"],
    ),
}


@pytest.mark.parametrize("mistake", CONFIG_MISTAKES)
async def test_a_mistake_in_the_config_costs_one_sentence(
    pair: Pair, mistake: str
) -> None:
    sabotage, needed = CONFIG_MISTAKES[mistake]
    sabotage(pair)
    await refused(pair.primary, "config", str(pair.primary.config_path), *needed)


async def test_an_unknown_key_of_the_remote_is_named(pair: Pair) -> None:
    edit(pair.remote, 'peer = "a"', 'pear = "a"')
    where = str(pair.remote.config_path)
    await refused(pair.remote, "config", where, "group[g].pear", "peer")


async def test_a_missing_device_without_a_size_is_named(pair: Pair) -> None:
    edit(pair.primary, f'size = "{SIZE_BYTES}B"\n', "")
    await refused(
        pair.primary,
        "device",
        str(pair.primary.config_path),
        "group 'g', volume 'v'",
        str(pair.device("v")),
        "size",
    )


async def test_a_missing_folder_of_a_device_is_named(pair: Pair) -> None:
    missing = pair.directory / "nowhere" / "v.img"
    edit(pair.primary, str(pair.device("v")), str(missing))
    await refused(pair.primary, "device", str(missing))


async def test_a_device_of_another_size_is_named(pair: Pair) -> None:
    pair.device("v").write_bytes(bytes(SIZE_BYTES - 512))
    await refused(
        pair.primary,
        "device",
        str(pair.primary.config_path),
        "volume 'v'",
        "size",
        str(SIZE_BYTES),
        str(SIZE_BYTES - 512),
    )


async def test_a_device_in_use_by_another_daemon_is_refused(
    pair: Pair, tmp_path: Path
) -> None:
    await pair.primary.start()
    second = Daemon("primary", tmp_path / "second", tmp_path)
    second.config_path.parent.mkdir()
    text = pair.primary.config_path.read_text()
    text = text.replace(str(pair.primary.state_directory), str(second.state_directory))
    text = text.replace(pair.primary.control_socket, pair.primary.control_socket + "2")
    text = text.replace(pair.primary.nbd_socket, pair.primary.nbd_socket + "2")
    second.config_path.write_text(text)
    await refused(second, "busy", str(pair.device("v")))
    assert pair.primary.group()["name"] == "g", "the first one serves on"


async def test_a_second_daemon_of_one_config_is_refused(pair: Pair) -> None:
    for daemon in pair.daemons:
        await daemon.start()
        second = Daemon(daemon.role, pair.directory, Path("/nonexistent"))
        second.log_path = pair.directory / f"second-{daemon.role}.log"
        try:
            await refused(second, "busy")
        finally:
            second.reap()
        assert daemon.group()["name"] == "g", "the first one serves on"
        await daemon.stop()  # the other one would change what is on disk


@pytest.mark.hunt
async def test_a_state_directory_of_another_group_is_refused(pair: Pair) -> None:
    await pair.start()
    await pair.cut()
    await pair.primary.stop()
    await pair.remote.stop()
    for daemon in pair.daemons:
        text = daemon.config_path.read_text()
        groups = daemon.state_directory / "groups"
        shutil.move(groups / "g", groups / "h")
        edit(daemon, 'name = "g"', 'name = "h"')
        await refused(daemon, "mismatch", "'g'", "'h'", "state_dir")
        shutil.move(groups / "h", groups / "g")
        daemon.config_path.write_text(text)


@pytest.mark.hunt
async def test_a_state_directory_with_other_volumes_is_refused(pair: Pair) -> None:
    await pair.start()
    await pair.primary.stop()
    await pair.remote.stop()
    for daemon in pair.daemons:
        edit(daemon, 'name = "v"', 'name = "w"')
        await refused(daemon, "mismatch", "'v'", "'w'", "volume", "state_dir")


async def test_a_state_directory_of_the_other_site_is_refused(pair: Pair) -> None:
    await pair.start()
    await pair.primary.stop()
    await pair.remote.stop()
    of_primary = str(pair.primary.state_directory)
    of_remote = str(pair.remote.state_directory)
    edit(pair.primary, of_primary, of_remote)
    edit(pair.remote, of_remote, of_primary)
    for daemon in pair.daemons:
        await refused(daemon, "mismatch", "state_dir", "site")


async def test_a_changed_track_size_is_refused(pair: Pair) -> None:
    await pair.start()
    await pair.primary.stop()
    text = pair.primary.config_path.read_text()
    pair.primary.config_path.write_text(text + 'track_size = "64KiB"\n')
    await refused(
        pair.primary,
        "mismatch",
        str(pair.primary.config_path),
        "volume 'v'",
        "track_size",
        "65536",
        "4096",
    )


# -- disagreement of the two sites


async def test_a_size_that_is_not_the_remotes_is_refused_over_the_link(
    pair: Pair,
) -> None:
    pair.secondary("v").write_bytes(bytes(SIZE_BYTES + 512))
    before = on_disk(pair.directory)
    await refused_link(pair, "size", str(SIZE_BYTES), str(SIZE_BYTES + 512), "v")
    name = pair.secondary("v").name
    assert on_disk(pair.directory)[name] == before[name]


@pytest.mark.hunt
async def test_a_track_size_that_is_not_the_remotes_is_refused_over_the_link(
    pair: Pair,
) -> None:
    await after_restoring_another_shape(pair, track_bytes=65536)
    text = pair.primary.config_path.read_text()
    pair.primary.config_path.write_text(text + 'track_size = "64KiB"\n')
    before = pair.secondary("v").read_bytes()
    await refused_link(pair, "g/v", "track_size", "65536", "4096")
    assert pair.secondary("v").read_bytes() == before


async def test_a_smaller_volume_than_the_remote_holds_is_refused_over_the_link(
    pair: Pair,
) -> None:
    # A larger one has grown, and the remote follows; nothing ever makes one smaller.
    smaller = SIZE_BYTES - 4096
    await after_restoring_another_shape(pair, size_bytes=smaller)
    edit(pair.primary, f"{SIZE_BYTES}B", f"{smaller}B")
    os.truncate(pair.device("v"), smaller)
    before = pair.secondary("v").read_bytes()
    await refused_link(pair, "g/v", "older copy", str(SIZE_BYTES), str(smaller))
    assert pair.secondary("v").read_bytes() == before


async def after_restoring_another_shape(pair: Pair, **shape: int) -> None:
    """Leave a primary that believes in another shape than it has replicated.

    Its own checks catch every mistake in a config, so its record is rewritten.
    """
    await pair.start()
    await pair.cut()
    await pair.primary.stop()
    directory = pair.primary.state_directory / "groups" / "g"
    record = DurableRecord(str(directory / "group.record"), SystemFiles())
    stored = record.load()
    assert stored is not None
    stored["volumes"]["v"].update(shape)
    record.store(stored)
    for name in ("changed", "acked", "regions"):
        (directory / f"v.{name}").unlink()


async def refused_link(pair: Pair, *needed: str) -> None:
    """The link is refused, with one sentence in the status; hosts are served."""
    for daemon in pair.daemons:
        if daemon.process is None:
            await daemon.start()
    await until(lambda: pair.primary.group()["link"]["state"] == "refused", "a refusal")
    (alarm,) = pair.primary.group()["alarms"]
    assert alarm["name"] == "refused"
    for text in needed:
        assert text in alarm["message"], f"{text!r} is not in: {alarm['message']}"
    assert len(alarm["message"]) < SENTENCE_CHARACTERS_MAX
    host = await pair.primary.nbd("g/v")
    await host.write(0, b"x" * 512, fua=True)
    assert await host.read(0, 512) == b"x" * 512
    await host.disconnect()


# -- strangers

_chance = random.Random(5)
GARBAGE = {
    "nothing at all": b"",
    "a line of HTTP": b"GET / HTTP/1.1\r\nHost: dr\r\n\r\n",
    "zeroes": bytes(70_000),
    "noise": _chance.randbytes(70_000),
    "an NBD client": b"\0\0\0\1IHAVEOPT\0\0\0\7\xff\xff\xff\xff",
    "TLS": bytes.fromhex("16030100c8010000c40303") + _chance.randbytes(190),
}


async def poke(opened: Any, garbage: bytes) -> None:
    """Send garbage and hang up; the other side must close too."""
    reader, writer = await opened
    try:
        writer.write(garbage)
        if writer.can_write_eof():
            writer.write_eof()
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


async def test_garbage_on_the_replication_port_costs_one_line_each(pair: Pair) -> None:
    await pair.start()
    event = "replication_connection_refused"
    address = ("127.0.0.1", pair.replication_port)
    for count, garbage in enumerate(GARBAGE.values(), start=1):
        async with asyncio.timeout(20):
            await poke(asyncio.open_connection(*address), garbage)
        await until(
            lambda: len(pair.remote.events(event)) >= count,  # noqa: B023
            "a line in the log",
        )
        assert len(pair.remote.events(event)) == count
    assert pair.is_connected(), "the primary's link is not touched"
    await pair.cut()


async def test_garbage_on_the_nbd_port_costs_one_line_each(pair: Pair) -> None:
    await pair.start()
    host = await pair.primary.nbd("g/v")
    await host.write(512, b"a" * 512)
    await pair.cut()
    for daemon in pair.daemons:
        for garbage in filter(None, GARBAGE.values()):
            before = len(daemon.events())
            async with asyncio.timeout(20):
                opened = asyncio.open_unix_connection(daemon.nbd_socket)
                await poke(opened, garbage)
            await until(
                lambda: len(daemon.events()) > before,  # noqa: B023
                "a line in the log",
            )
            (line,) = daemon.events()[before:]
            assert line["event"] == "nbd_connection_refused"
    assert await host.read(512, 512) == b"a" * 512
    await host.disconnect()
    assert (await pair.remote.read_whole("g/v"))[512:1024] == b"a" * 512


async def test_garbage_on_the_control_socket_is_answered_or_closed(pair: Pair) -> None:
    await pair.start()
    for daemon in pair.daemons:
        for garbage in GARBAGE.values():
            async with asyncio.timeout(20):
                opened = asyncio.open_unix_connection(daemon.control_socket)
                await poke(opened, garbage)
        assert daemon.group()["name"] == "g"


async def test_the_daemons_leave_no_sockets_behind(pair: Pair) -> None:
    await pair.start()
    await pair.primary.stop()
    await pair.remote.stop()
    for daemon in pair.daemons:
        assert not os.path.exists(daemon.control_socket)
        assert not os.path.exists(daemon.nbd_socket)
