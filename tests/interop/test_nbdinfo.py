"""nbdinfo sees of every kind of export what the server says of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.client_commands import MIB, attempt, run
from tests.support.sites import Daemon, Pair

pytestmark = pytest.mark.needs_package("nbdinfo", "qemu-io")

FLAG_BITS = {
    "flush": 1 << 2,
    "fua": 1 << 3,
    "trim": 1 << 5,
    "zero": 1 << 6,
    "df": 1 << 7,
    "multi-conn": 1 << 8,
    "cache": 1 << 10,
    "fast-zero": 1 << 11,
}
"""What nbdinfo calls them; NBD_FLAG_* of the protocol's transmission flags."""

READ_ONLY_BIT = 1 << 1
ROTATIONAL_BIT = 1 << 4
YES, NO = 0, 2


async def _flags(daemon: Daemon, export: str) -> int:
    client = await daemon.nbd(export)
    flags = client.info.flags
    await client.disconnect()
    return flags


def _told(uri: str) -> dict[str, Any]:
    """Return what nbdinfo says of the one export of a URI."""
    (export,) = json.loads(run("nbdinfo", "--json", uri))["exports"]
    assert isinstance(export, dict)
    return export


def _writable(flags: int) -> bool:
    return not flags & READ_ONLY_BIT


@pytest.fixture(scope="module")
def committed(sites: Pair) -> Pair:
    """The sites with data, a hole, and a recovery point at the remote."""
    uri = sites.primary.uri("g/v")
    run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 1M", "-c", "flush", uri)
    sites.cut_now()
    return sites


def exports(sites: Pair) -> list[tuple[Daemon, str]]:
    """Return a volume, an odd one, its image at the cut, and a recovery point."""
    return [
        (sites.primary, "g/v"),
        (sites.primary, "g/odd"),
        (sites.primary, "g/v@cut"),
        (sites.remote, "g/v"),
    ]


@pytest.mark.parametrize("number", range(4))
class TestOneExport:
    def test_every_flag_is_seen_as_the_server_says_it(
        self, committed: Pair, number: int
    ) -> None:
        daemon, export = exports(committed)[number]
        flags = asyncio.run(_flags(daemon, export))
        uri, told = daemon.uri(export), _told(daemon.uri(export))
        for name, bit in FLAG_BITS.items():
            expected = bool(flags & bit)
            key = f"can_{name.replace('-', '_')}"
            # nbdinfo leaves out of its table what a server can't do at all.
            assert told.get(key, False) is expected, key
            asked = attempt("nbdinfo", "--can", name, uri)
            assert asked.returncode == (YES if expected else NO), (name, asked)
        assert told["is_read_only"] is not _writable(flags)
        asked = attempt("nbdinfo", "--is", "read-only", uri)
        assert asked.returncode == (NO if _writable(flags) else YES)
        asked = attempt("nbdinfo", "--is", "rotational", uri)
        assert asked.returncode == (YES if flags & ROTATIONAL_BIT else NO)
        assert attempt("nbdinfo", "--can", "connect", uri).returncode == YES
        structured = attempt("nbdinfo", "--can", "structured-reply", uri)
        assert structured.returncode == YES

    def test_size_and_block_sizes(self, committed: Pair, number: int) -> None:
        daemon, export = exports(committed)[number]
        name = export.removeprefix("g/").removesuffix("@cut")
        size = committed.device(name).stat().st_size
        uri = daemon.uri(export)
        assert int(run("nbdinfo", "--size", uri)) == size
        told = _told(uri)
        assert told["export-size"] == size
        assert told["block_size_minimum"] == 1
        preferred = told["block_size_preferred"]
        assert preferred >= 4096
        assert preferred.bit_count() == 1
        assert told["block_size_maximum"] >= 32 * MIB
        assert "base:allocation" in told["contexts"]


def test_only_a_volume_of_the_primary_takes_writes(committed: Pair) -> None:
    writable = [
        not _told(daemon.uri(export))["is_read_only"]
        for daemon, export in exports(committed)
    ]
    assert writable == [True, True, False, False]


@pytest.mark.parametrize("site", ["primary", "remote"])
def test_the_list_names_what_can_be_opened(committed: Pair, site: str) -> None:
    daemon: Daemon = getattr(committed, site)
    listed = json.loads(run("nbdinfo", "--list", "--json", daemon.uri("")))["exports"]
    names = [export["export-name"] for export in listed]
    assert set(names) >= {"g/v", "g/odd", "g/fs"}
    assert len(names) == len(set(names))
    for export in listed:
        alone = _told(daemon.uri(export["export-name"]))
        assert alone["export-size"] == export["export-size"]


@pytest.mark.parametrize("number", [0, 3])
def test_the_map_tells_holes_from_data(committed: Pair, number: int) -> None:
    daemon, export = exports(committed)[number]
    uri = daemon.uri(export)
    found = json.loads(run("nbdinfo", "--map", "--json", uri))
    extents = [(e["offset"], e["length"], e["type"]) for e in found]
    assert extents == [(0, MIB, 3), (MIB, MIB, 0), (2 * MIB, 14 * MIB, 3)]
    totals = json.loads(run("nbdinfo", "--map", "--totals", "--json", uri))
    sizes = {entry["type"]: entry["size"] for entry in totals}
    assert sizes == {0: MIB, 3: 15 * MIB}


def test_the_same_over_tcp(committed: Pair) -> None:
    by_unix, by_tcp = (
        _told(uri) for uri in (committed.primary.uri("g/v"), committed.tcp_uri("g/v"))
    )
    assert {**by_unix, "uri": ""} == {**by_tcp, "uri": ""}


def test_an_unknown_export_is_refused_and_the_server_stays(
    committed: Pair,
) -> None:
    uri = committed.primary.uri("g/none")
    refused = attempt("nbdinfo", uri)
    assert refused.returncode != 0
    assert "for export: g/none" in refused.stderr
    assert _told(committed.primary.uri("g/v"))["export-size"] == 16 * MIB
