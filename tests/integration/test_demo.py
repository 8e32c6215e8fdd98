"""`make demo` in earnest: its exit status is what the issue of it rests on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO_SECONDS_MAX = 120
"""For a machine that tests run on; the demo itself aims at under a minute."""


def test_the_demo_ends_with_a_copy_that_held(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=REPOSITORY,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS_MAX,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "integrity check   ok" in run.stdout
    assert "HELD" in run.stdout
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == []
