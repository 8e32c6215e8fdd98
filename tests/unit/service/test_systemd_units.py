"""The units that ship: hardened alike, and starting what the package installs."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from common.cli.exit_codes import EXIT_CODES
from common.service.config import load_any

ROOT = Path(__file__).parents[3]
UNITS = sorted((ROOT / "config/systemd").glob("*.service"))

EXPOSURE_TENTHS_MAX = 15
"""systemd-analyze's measure: an ordinary service has 96, these had 10."""


def settings(unit: Path) -> list[tuple[str, str]]:
    lines = unit.read_text().splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line and line[0] != "#"]
    return [(name, value) for name, _, value in pairs]


def test_there_is_a_unit_for_each_daemon() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    daemons = sorted(name for name in scripts if name != "farshore")

    assert [unit.stem for unit in UNITS] == daemons


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_its_daemon_with_the_sample_s_config(unit: Path) -> None:
    values = dict(settings(unit))
    command, option, file = values["ExecStart"].split()
    sample = ROOT / "config" / Path(file).name

    assert command == f"/opt/farshore/bin/{unit.stem}"
    assert option == "--config"
    assert values["Type"] == "notify"
    config = load_any(str(sample))
    run_folder = f"/run/{values['RuntimeDirectory']}/"
    state_folder = f"/var/lib/{values['StateDirectory']}/"
    assert config.site.control_socket.startswith(run_folder)
    assert config.site.state_directory.startswith(state_folder)


def test_the_units_differ_in_nothing_that_confines_them() -> None:
    own = {"Description", "Documentation", "ExecStart", "Before", "Wants"}
    first, second = (
        [pair for pair in settings(unit) if pair[0] not in own] for unit in UNITS
    )

    assert first == second


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_what_an_operator_must_mend_is_not_tried_again(unit: Path) -> None:
    prevented = {int(code) for code in dict(settings(unit))[PREVENT].split()}

    assert prevented < {code for code, _, _ in EXIT_CODES}
    # A device or link that fails may come back; a bug may not show again.
    assert not prevented & {1, 10, 70}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_no_memory_is_written_to_a_core(unit: Path) -> None:
    """It holds keys, and what hosts write."""
    assert dict(settings(unit))["LimitCORE"] == "0"


PREVENT = "RestartPreventExitStatus"


@pytest.mark.needs_package("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_the_unit_well_confined(unit: Path) -> None:
    threshold = f"--threshold={EXPOSURE_TENTHS_MAX}"
    finished = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", threshold, unit],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
