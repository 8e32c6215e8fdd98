"""Man pages: of every command, option and key, and without a warning from man."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from common.cli.exit_codes import EXIT_CODES
from common.cli.main import cli
from common.service.config_reference import key_tables
from release.man_pages import DAEMONS, all_pages, write_pages
from release.roff import entry, escaped, prose

PAGES = all_pages("1.2.3")


def commands(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
    context = click.Context(group)
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += commands(command, f"{path} {name}")
        else:
            found.append((f"{path} {name}", command))
    return found


def plain(page: str) -> str:
    return re.sub(r"\\f[BIP]", "", page).replace("\\-", "-").replace("\\e", "\\")


def test_there_is_a_page_for_each_command_and_config_file() -> None:
    daemons = [f"farshore-{kind}" for kind in DAEMONS]
    expected = {"farshore.1", *(f"{name}.8" for name in daemons)}

    assert set(PAGES) == expected | {f"{name}.toml.5" for name in daemons}


def test_the_page_of_the_command_has_every_option_and_exit_code() -> None:
    page = plain(PAGES["farshore.1"])
    found = commands(cli, "farshore")
    assert len(found) > 20
    for path, command in found:
        _, heading, section = page.partition(f'.SS "{path} ')
        assert heading, path
        section = section.split("\n.S")[0]
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[-1] in section, f"{path} {option.opts}"
    for code, _, meaning in EXIT_CODES:
        assert f".TP\n{code}\n{plain(prose(meaning))}" in page


@pytest.mark.parametrize("kind", ["primary", "remote"])
def test_the_page_of_a_config_has_every_key(kind: str) -> None:
    page = plain(PAGES[f"farshore-{kind}.toml.5"])
    for table in key_tables("primary" if kind == "primary" else "remote"):
        _, heading, section = page.partition(f'.SS "{table.heading}"\n')
        assert heading, table.heading
        section = section.split("\n.S")[0]
        for row in table.rows:
            assert f".TP\n{row.key}\n" in section, f"{table.heading} {row.key}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (".config and 'x'", "\\&.config and 'x'"),
        ("'quoted", "\\&'quoted"),
        ("a-b\\c", "a\\-b\\ec"),
        ("two\n  lines", "two lines"),
    ],
)
def test_roff_takes_no_word_for_its_own(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_code_is_bold_and_a_link_is_its_words() -> None:
    assert prose("see `a-b` and [the page](x.md)") == r"see \fBa\-b\fP and the page"
    assert entry("--x", "one", "two") == ".TP\n\\fB\\-\\-x\\fP\none\n.IP\ntwo"


@pytest.mark.needs_package("man")
def test_man_shows_every_page_without_a_warning(tmp_path: Path) -> None:
    for path in write_pages(tmp_path, "1.2.3"):
        shown = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", path],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LANG": "C.UTF-8"},
        )
        assert (shown.returncode, shown.stderr) == (0, ""), path.name
        assert path.name.rpartition(".")[0].upper() in shown.stdout
