"""Backup tools that read dirty bitmaps get increments; the manual's own is run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.client_commands import MIB, SYSTEM_PYTHON, attempt, run
from tests.support.sites import REPOSITORY, Pair

pytestmark = pytest.mark.needs_package("nbdinfo", "qemu-io", "nbdsh")

PAGE = REPOSITORY / "docs" / "operating" / "backup.md"
CHANGED = "qemu:dirty-bitmap:farshore"


def changed(uri: str) -> list[tuple[int, int]]:
    found = json.loads(run("nbdinfo", f"--map={CHANGED}", "--json", uri))
    assert {entry["type"] for entry in found} <= {0, 1}
    return [(e["offset"], e["length"]) for e in found if e["type"]]


def write(sites: Pair, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    run("qemu-io", "-f", "raw", *words, sites.primary.uri("g/v"))


def test_the_volume_tells_what_changed_since_the_last_cut(sites: Pair) -> None:
    uri = sites.primary.uri("g/v")
    write(sites, "write -P 1 0 1M")
    sites.cut_now()
    assert changed(uri) == []
    write(sites, "write -P 2 512k 4k", "write -P 2 8M 1M", "discard 12M 64k")
    expected = [(512 << 10, 4096), (8 * MIB, MIB), (12 * MIB, 64 << 10)]
    assert changed(uri) == expected
    sites.cut_now()
    assert changed(uri) == []
    assert changed(f"{sites.primary.uri('g/v@cut')}") == expected


def test_the_manual_s_backup_copies_what_changed_and_no_more(
    sites: Pair, tmp_path: Path
) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    tool, copy = tmp_path / "backup.py", tmp_path / "data.img"
    tool.write_text(script)
    uri = sites.primary.uri("g/v@cut")
    size = sites.device("v").stat().st_size

    def back_up() -> int:
        said = run(SYSTEM_PYTHON, tool, uri, copy)
        found = re.search(rf"copied (\d+) of {size} bytes", said)
        assert found, said
        return int(found[1])

    write(sites, "write -P 3 1M 2M")
    sites.cut_now()
    assert back_up() == size
    for turn in range(3):
        write(sites, f"write -P {10 + turn} {turn}M 8k", f"discard {5 + turn}M 64k")
        sites.cut_now()
        image = tmp_path / f"image{turn}"
        shutil.copyfile(sites.device("v"), image)
        write(sites, "write -P 99 15M 4k")  # after the cut: none of this backup's
        expected = (8 << 10) + (64 << 10) + (4096 if turn else 0)
        assert back_up() == expected
        assert back_up() == 0, "the same cut again"
        assert copy.read_bytes() == image.read_bytes()
    sites.cut_now()  # a cut that no backup was made of
    write(sites, "write -P 98 14M 4k")
    sites.cut_now()
    assert back_up() == size
    assert copy.read_bytes() == sites.device("v").read_bytes()


def test_a_point_tells_what_changed_since_the_one_before(sites: Pair) -> None:
    write(sites, "write -P 40 0 4k")
    sites.cut_now()
    uri = sites.remote.uri("g/v")
    told = json.loads(run("nbdinfo", "--json", uri))["exports"][0]
    assert CHANGED not in told["contexts"], "the only point has none before it"
    assert attempt("nbdinfo", f"--map={CHANGED}", uri).returncode != 0
