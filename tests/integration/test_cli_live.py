"""The `farshore` command against daemons that run."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.cli.exit_codes import EXIT_CODES
from tests.support.sites import Daemon, Pair, VolumeSpec, run_cli, until

MIB = 1 << 20
SIZE_BYTES = 4 * MIB
CODES = {kind: code for code, kind, _ in EXIT_CODES}

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
LINEAGE = re.compile(r"[0-9a-f]{32}")

GROUP_KEYS = {
    "name",
    "role",
    "state",
    "lineage",
    "cycle_number",
    "recovery_point",
    "recovery_point_age_seconds",
    "link",
    "changed_bytes",
    "out_of_sync_bytes",
    "last_cycle",
    "volumes",
    "progress",
    "last_verify",
    "forecast",
    "last_scrub",
    "alarms",
}


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    volumes = [VolumeSpec("v", SIZE_BYTES), VolumeSpec("w", MIB + 512)]
    with Pair(tmp_path, volumes) as made:
        await made.start()
        yield made


async def cli(daemon: Daemon, *arguments: str, kind: str = "done") -> str:
    """Run a command against a daemon; return its output, both streams."""
    socket = ("--socket", daemon.control_socket)
    done = await asyncio.to_thread(run_cli, *arguments, *socket)
    said = done.stdout + done.stderr
    assert done.returncode == CODES[kind], f"{arguments}: {done.returncode}: {said}"
    return said


async def cli_json(daemon: Daemon, *arguments: str) -> Any:
    return json.loads(await cli(daemon, *arguments, "--json"))


async def group_of(daemon: Daemon) -> dict[str, Any]:
    (group,) = (await cli_json(daemon, "status"))["groups"]
    found: dict[str, Any] = group
    return found


def shape(volume: dict[str, Any]) -> dict[str, Any]:
    """Return the promised keys of a volume, of which there may be more."""
    return {name: volume[name] for name in ("name", "size_bytes", "track_bytes")}


async def write(pair: Pair, export: str, offset: int, data: bytes) -> None:
    host = await pair.primary.nbd(export)
    await host.write(offset, data, fua=True)
    await host.disconnect()


async def test_status_json_has_the_promised_keys_at_both_sites(pair: Pair) -> None:
    await write(pair, "g/v", 4096, b"a" * 8192)
    await cli(pair.primary, "cut", "g", "--wait", "--label", "before the upgrade")
    for daemon, site, role, group_role in (
        (pair.primary, "a", "primary", "sending"),
        (pair.remote, "b", "remote", "receiving"),
    ):
        status = await cli_json(daemon, "status")
        assert set(status) >= {"site", "role", "version", "nbd", "groups"}
        assert (status["site"], status["role"]) == (site, role)
        (group,) = status["groups"]
        assert set(group) >= GROUP_KEYS
        assert (group["name"], group["role"], group["state"]) == (
            "g",
            group_role,
            "idle",
        )
        assert LINEAGE.fullmatch(group["lineage"])
        check_point(group)
        assert group["link"]["state"] == "connected"
        assert group["link"]["encrypted"] is False
        (peer,) = group["link"]["peers"]
        assert (peer["state"], peer["carries_control"]) == ("connected", True)
        assert peer["sent_bytes"] > 0 < peer["received_bytes"]
        assert [shape(volume) for volume in group["volumes"]] == [
            {"name": "v", "size_bytes": SIZE_BYTES, "track_bytes": 4096},
            {"name": "w", "size_bytes": MIB + 512, "track_bytes": 4096},
        ]
        assert (group["progress"], group["alarms"]) == (None, [])
    here, there = await group_of(pair.primary), await group_of(pair.remote)
    for key in ("lineage", "cycle_number", "recovery_point"):
        assert here[key] == there[key], key


def check_point(group: dict[str, Any]) -> None:
    point = group["recovery_point"]
    assert set(point) == {"number", "cut_time", "current_as_of", "label"}
    assert point["number"] == group["cycle_number"] == 1
    assert point["label"] == "before the upgrade"
    assert RFC_3339.fullmatch(point["cut_time"])
    assert RFC_3339.fullmatch(point["current_as_of"])
    assert 0 <= group["recovery_point_age_seconds"] < 60


async def test_the_sending_site_says_what_has_changed_and_what_a_cycle_cost(
    pair: Pair,
) -> None:
    group = await group_of(pair.primary)
    assert group["recovery_point"] is None
    assert group["recovery_point_age_seconds"] is None
    assert group["state"] == "first_copy"
    assert group["out_of_sync_bytes"] == SIZE_BYTES + MIB + 512
    await pair.cut()
    await write(pair, "g/v", 4095, b"ab")
    await write(pair, "g/w", MIB, b"c" * 512)
    group = await group_of(pair.primary)
    assert group["changed_bytes"] == group["out_of_sync_bytes"] == 3 * 4096
    await pair.cut()
    group = await group_of(pair.primary)
    assert group["changed_bytes"] == group["out_of_sync_bytes"] == 0
    cycle = group["last_cycle"]
    assert set(cycle) == {
        "number",
        "hold_seconds",
        "drain_seconds",
        "tracks",
        "bytes_changed",
        "bytes_on_wire",
    }
    assert (cycle["number"], cycle["tracks"]) == (2, 3)
    assert cycle["bytes_changed"] == 3 * 4096
    assert 0 < cycle["bytes_on_wire"] < 4096
    assert 0 <= cycle["hold_seconds"] <= cycle["drain_seconds"]


async def test_status_for_people_says_it_in_words(pair: Pair) -> None:
    await write(pair, "g/v", 0, b"a" * 512)
    await pair.cut()
    for daemon, word in ((pair.primary, "primary"), (pair.remote, "remote")):
        said = await cli(daemon, "status")
        for text in ("g", word, "idle", "connected"):
            assert text in said, said


async def test_cut_json_tells_which_cut_and_whether_it_is_safe(pair: Pair) -> None:
    await write(pair, "g/v", 0, b"a" * 512)
    cut = await cli_json(pair.primary, "cut", "g", "--wait")
    assert set(cut) == {"number", "cut_time", "hold_seconds", "committed"}
    assert (cut["number"], cut["committed"]) == (1, True)
    assert RFC_3339.fullmatch(cut["cut_time"])
    assert 0 <= cut["hold_seconds"] < 1
    await write(pair, "g/v", 0, b"b" * 512)
    later = await cli_json(pair.primary, "cut", "g")
    assert later["number"] == 2
    await until(
        lambda: pair.remote.group()["recovery_point"]["number"] == 2, "it is committed"
    )


async def test_points_lists_the_newest_with_its_label(pair: Pair) -> None:
    assert await cli_json(pair.remote, "points", "g") == []
    assert "no recovery point yet" in await cli(pair.remote, "points", "g")
    for number, label in ((1, "monday"), (2, "tuesday")):
        await write(pair, "g/v", 0, bytes([number]) * 512)
        await cli(pair.primary, "cut", "g", "--wait", "--label", label)
    for daemon in pair.daemons:
        point = (await cli_json(daemon, "points", "g"))[0]
        assert set(point) == {
            "number",
            "cut_time",
            "current_as_of",
            "label",
            "bytes",
            "pinned",
            "here",
        }
        assert point["here"] == (daemon is pair.remote)
        assert (point["number"], point["label"], point["pinned"]) == (
            2,
            "tuesday",
            False,
        )
        assert "tuesday" in await cli(daemon, "points", "g")


async def test_a_point_that_is_read_is_pinned(pair: Pair) -> None:
    await write(pair, "g/v", 0, b"a" * 512)
    await pair.cut()
    reader = await pair.remote.nbd("g/v")
    await write(pair, "g/v", 0, b"b" * 512)
    await pair.cut()
    newest, kept = await cli_json(pair.remote, "points", "g")
    assert (newest["number"], kept["number"]) == (2, 1)
    assert kept["pinned"]
    assert await reader.read(0, 512) == b"a" * 512
    await reader.disconnect()
    assert (await pair.remote.read_whole("g/v"))[:512] == b"b" * 512


async def test_a_cut_of_nothing_makes_no_point_but_says_it_is_current(
    pair: Pair,
) -> None:
    await write(pair, "g/v", 0, b"a" * 512)
    await pair.cut()
    before = (await group_of(pair.remote))["recovery_point"]
    cut = await cli_json(pair.primary, "cut", "g", "--wait")
    assert cut["committed"]
    for daemon in pair.daemons:
        after = (await group_of(daemon))["recovery_point"]
        assert after["number"] == before["number"] == 1
        assert after["cut_time"] == before["cut_time"]
        assert after["current_as_of"] > before["current_as_of"]
        assert after["current_as_of"] == cut["cut_time"]
    await pair.remote.stop()
    await pair.remote.start()
    again = (await group_of(pair.remote))["recovery_point"]
    assert again["current_as_of"] == cut["cut_time"], "it is durable"


async def test_a_suspended_group_makes_no_cuts_until_it_is_resumed(pair: Pair) -> None:
    await write(pair, "g/v", 0, b"a" * 512)
    await pair.cut()
    assert "resume" in await cli(pair.primary, "suspend", "g")
    assert (await group_of(pair.primary))["state"] == "suspended"
    assert "resume" in await cli(pair.primary, "cut", "g", "--wait", kind="refused")
    await pair.primary.stop()
    await pair.primary.start()
    await pair.connected()
    assert (await group_of(pair.primary))["state"] == "suspended", "over a restart too"
    await write(pair, "g/v", 0, b"b" * 512)
    await cli(pair.primary, "resume", "g")
    await cli(pair.primary, "cut", "g", "--wait")
    assert (await pair.remote.read_whole("g/v"))[:512] == b"b" * 512


async def test_commands_that_cannot_be_say_so_with_their_code(pair: Pair) -> None:
    assert "g" in await cli(pair.primary, "cut", "nosuch", kind="refused")
    said = await cli(pair.remote, "cut", "g", kind="refused")
    assert "sending site" in said
    await pair.remote.stop()
    await until(lambda: not pair.is_connected(), "the link is down")
    assert (await group_of(pair.primary))["state"] == "disconnected"
    said = await cli(pair.primary, "cut", "g", "--wait", kind="refused")
    assert "link" in said
    await pair.primary.stop()
    await cli(pair.primary, "status", kind="unreachable")
