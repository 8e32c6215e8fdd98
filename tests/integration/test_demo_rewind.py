"""`make demo-rewind` in earnest: noise, and every file there again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from demo.rewind import chosen_point

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO_SECONDS_MAX = 240
"""For a machine that tests run on; the demo itself aims at under half a minute."""


@pytest.mark.needs_package("mkfs.ext4", "debugfs", "e2fsck")
@pytest.mark.hunt
def test_the_demo_finds_the_point_before_the_noise(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "demo.rewind"],
        cwd=REPOSITORY,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS_MAX,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "became noise" in run.stdout
    assert "HELD" in run.stdout
    assert "12 of 12" in run.stdout
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_the_point_before_far_more_changed_than_usual_is_chosen() -> None:
    changed = [9000, 20, 30, 25, 30, 800, 700, 10]
    points = [{"number": n, "bytes": size} for n, size in enumerate(changed, 4)]
    assert chosen_point(list(reversed(points))) == 9
    assert chosen_point(points[:5]) == 8, "nothing stands out: the newest"
