"""The alert rules in Prometheus's own judgement: valid, firing when they should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RULES = ROOT / "config/prometheus-rules.yml"
SCENARIOS = ROOT / "tests/vectors/prometheus/alerts.yml"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool (Debian: prometheus) is not installed",
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60
    )


@needs_promtool
def test_the_rules_are_valid() -> None:
    told = promtool("check", "rules", str(RULES))

    assert told.returncode == 0, told.stdout + told.stderr


@needs_promtool
def test_alerts_fire_in_their_scenarios_and_only_there() -> None:
    told = promtool("test", "rules", str(SCENARIOS))

    assert told.returncode == 0, told.stdout + told.stderr
