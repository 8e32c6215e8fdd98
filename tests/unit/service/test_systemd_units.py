"""The units that ship: hardened alike, and starting what the package installs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from common.cli.exit_codes import EXIT_CODES
from common.service.config import load_any

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "config/systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PLAIN = [unit for unit in UNITS if "@" not in unit.name]

EXPOSURE_TENTHS_MAX = 15
"""systemd-analyze's measure: an ordinary service has 96, these had 11."""


def settings(unit: Path) -> list[tuple[str, str]]:
    lines = unit.read_text().splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line and line[0] != "#"]
    return [(name, value) for name, _, value in pairs]


def test_there_is_a_unit_for_each_daemon() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    daemons = sorted(name for name in scripts if name != "farshore")

    assert [unit.stem for unit in PLAIN] == daemons
    templates = [unit.stem for unit in UNITS if unit not in PLAIN]
    assert templates == [f"{name}@" for name in daemons]


@pytest.mark.parametrize("unit", PLAIN, ids=lambda unit: unit.stem)
def test_a_unit_starts_its_daemon_with_the_sample_s_config(unit: Path) -> None:
    values = dict(settings(unit))
    command, option, file = values["ExecStart"].split()
    sample = ROOT / "config" / Path(file).name

    assert command == f"/opt/farshore/bin/{unit.stem}"
    assert option == "--config"
    assert values["Type"] == "notify"
    config = load_any(str(sample))
    assert values["ConfigurationDirectory"] == "farshore/keys"
    assert values["LoadCredential"] == "keys:/etc/farshore/keys"
    run_folder = f"/run/{values['RuntimeDirectory']}/"
    state_folder = f"/var/lib/{values['StateDirectory']}/"
    assert config.site.control_socket.startswith(run_folder)
    assert config.site.state_directory.startswith(state_folder)


def test_the_units_differ_in_nothing_that_confines_them() -> None:
    own = {"Description", "Documentation", "ExecStart", "Before", "Wants"}
    first, *others = (
        [pair for pair in settings(unit) if pair[0] not in own] for unit in UNITS
    )

    assert [pairs == first for pairs in others] == [True] * 3


@pytest.mark.parametrize("unit", PLAIN, ids=lambda unit: unit.stem)
def test_a_template_is_its_unit_with_a_config_of_its_own(unit: Path) -> None:
    template = unit.with_name(f"{unit.stem}@.service")
    expected = [
        (
            name,
            value.replace("farshore: ", "farshore %i: ").replace(".toml", "-%i.toml")
            if name in {"Description", "ExecStart"}
            else value,
        )
        for name, value in settings(unit)
    ]

    assert settings(template) == expected


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_start_takes_its_time_and_a_stuck_loop_is_ended(unit: Path) -> None:
    values = dict(settings(unit))

    assert values["TimeoutStartSec"] == "infinity"
    assert values["WatchdogSec"] == "60s"
    assert values["StartLimitIntervalSec"] == "0"


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


@pytest.mark.needs_package("systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """With the daemons' commands in place, as it looks whether they can be run."""
    for unit in FOLDER.iterdir():
        name = unit.name.replace("@.", "@orders.")
        command = re.compile("^(ExecStart)=.*", re.MULTILINE)
        text = command.sub(r"\1=/bin/true", unit.read_text())
        (tmp_path / name).write_text(
            re.sub("^Documentation=.*\n", "", text, flags=re.MULTILINE)
        )
    finished = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        timeout=60,
    )

    ours = [line for line in finished.stderr.splitlines() if "farshore" in line]
    assert (finished.returncode, ours) == (0, [])
