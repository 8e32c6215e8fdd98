from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from common import errors
from common.cli.display import seconds_text, size_text
from common.cli.exit_codes import EXIT_CODES, NEXT_COMMANDS
from common.cli.main import FarshoreGroup, cli

Farshore = Callable[..., Result]
ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "docs/reference"
CODES = {code: meaning for code, _, meaning in EXIT_CODES}


def error_classes() -> list[type[errors.FarshoreError]]:
    return [
        item
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, errors.FarshoreError)
    ]


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_every_error_s_exit_code_is_documented(
    kind: type[errors.FarshoreError], farshore: Farshore
) -> None:
    assert kind.exit_code in CODES
    page = (REFERENCE / "exit-codes.md").read_text()
    meaning = CODES[kind.exit_code]
    assert f"| {kind.exit_code} | {meaning} |" in page
    assert meaning in farshore("--help").output


def test_the_exit_code_page_documents_nothing_else() -> None:
    page = (REFERENCE / "exit-codes.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]

    assert rows[1:] == [f"| {code} | {meaning} |" for code, _, meaning in EXIT_CODES]
    assert set(NEXT_COMMANDS) <= set(CODES)


def commands(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += commands(command, f"{path} {name}")
        else:
            found.append((f"{path} {name}", command))
    return found


@pytest.mark.parametrize(("path", "command"), commands(cli, "farshore"))
def test_every_command_and_option_is_in_the_reference(
    path: str, command: click.Command
) -> None:
    page = (REFERENCE / "cli.md").read_text()

    assert f"## `{path}" in page
    section = page.split(f"## `{path}", 1)[1].split("\n## ", 1)[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in {
            "socket_path",
            "config",
        }:
            assert parameter.opts[-1] in section, parameter.opts


JSON_ALREADY = {"farshore config schema"}
"""Prints nothing but JSON."""


@pytest.mark.parametrize(("path", "command"), commands(cli, "farshore"))
def test_every_command_prints_for_programs_too(
    path: str, command: click.Command
) -> None:
    options = {name for parameter in command.params for name in parameter.opts}

    assert ("--json" in options) != (path in JSON_ALREADY)


@pytest.mark.parametrize(("path", "command"), commands(cli, "farshore"))
def test_every_command_has_help_and_refuses_an_unknown_option(
    path: str, command: click.Command, farshore: Farshore
) -> None:
    words = path.split()[1:]

    assert farshore(*words, "--help").exit_code == 0
    assert command.help
    assert farshore(*words, "--nonsense").exit_code == 2


def test_ctrl_c_is_130() -> None:
    @click.group(cls=FarshoreGroup)
    def program() -> None:
        pass

    @program.command()
    def wait() -> None:
        raise KeyboardInterrupt

    assert CliRunner().invoke(program, ["wait"]).exit_code == 130


def test_the_process_ends_with_the_exit_code_and_no_traceback(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "common.cli.main", "status", "--socket", "/nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert finished.returncode == 7
    assert finished.stdout == ""
    assert finished.stderr.startswith("farshore: no daemon answers at /nowhere")
    assert "Traceback" not in finished.stderr


def test_the_version_is_printed(farshore: Farshore) -> None:
    assert farshore("--version").output.startswith("farshore, version ")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10 << 20, "10.0 MiB"),
        (100 << 30, "100 GiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_sizes_have_three_digits(size: Any, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.00074, "740 µs"),
        (0.0123, "12.3 ms"),
        (1.26, "1.3 s"),
        (125, "2 min 5 s"),
        (3600 * 3 + 720, "3 h 12 min"),
        (86400 * 2 + 3600, "2 d 1 h"),
    ],
)
def test_spans_are_in_the_units_one_would_say(seconds: Any, text: str) -> None:
    assert seconds_text(seconds) == text
