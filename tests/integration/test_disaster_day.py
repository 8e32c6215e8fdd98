"""`make disaster-day` in earnest, and small: PostgreSQL over both sites and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DAY_SECONDS_MAX = 400
"""For a machine that tests run on; it aims at half a minute."""


@pytest.mark.needs_root
@pytest.mark.needs_package("nbdfuse", "losetup", "mkfs.ext4", "e2fsck")
@pytest.mark.skipif(
    not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")),
    reason="needs PostgreSQL, which is not installed",
)
@pytest.mark.hunt
def test_postgresql_survives_its_site_and_comes_home() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "demo.disaster_day", "--quick"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DAY_SECONDS_MAX,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "HELD" in run.stdout
    assert "NO " not in run.stdout
