"""The pages name only commands, options and targets of make that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from common.cli.main import cli
from primary_site.daemon import command as primary_command
from remote_site.daemon import command as remote_command
from tests.support.printed_commands import shell_blocks, typed

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS: dict[str, click.Command] = {
    "farshore": cli,
    "farshore-primary": primary_command,
    "farshore-remote": remote_command,
}
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if page.name != "CHANGELOG.md"  # of other versions, too
)


# -- commands --------------------------------------------------------------------------


def check(command: click.Command, words: list[str]) -> None:
    """Raise click.UsageError unless the command would take the words.

    Values are not looked at beyond choices: files of the pages do not exist here.
    """
    while True:
        context = click.Context(command)
        options, left, _ = command.make_parser(context).parse_args(list(words))
        if not isinstance(command, click.Group):
            break
        if not left:
            return  # --help, --version
        name, found = left[0], command.get_command(context, left[0])
        if found is None:
            raise click.UsageError(f"no command {name}", context)
        words = words[words.index(name) + 1 :]
        command = found
    if left:
        raise click.UsageError(f"too many words: {left}", context)
    for parameter in command.params:
        given = options.get(parameter.name or "")
        if parameter.required and parameter.value_is_missing(given):
            raise click.UsageError(f"{parameter.name} is missing", context)
        if isinstance(parameter.type, click.Choice) and isinstance(given, str):
            parameter.type.convert(given, parameter, context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one(page: Path) -> None:
    for program, words in typed(page.read_text()):
        try:
            check(PROGRAMS[program], words)
        except click.ClickException as error:
            pytest.fail(f"{program} {shlex.join(words)}: {error.format_message()}")


def test_commands_are_found_on_the_pages() -> None:
    found = sum(len(list(typed(page.read_text()))) for page in PAGES)
    assert found > 45


def test_named_commands_and_options_of_the_text_exist() -> None:
    """In running text a command may lack its arguments; its words are real all the
    same."""
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for span in re.findall(r"(?<!`)`farshore ([a-z][^`]*)`", text):
            words = re.sub(r"[\[\]|,]", " ", span).split()
            command: click.Command = cli
            while isinstance(command, click.Group) and words:
                found = command.get_command(click.Context(command), words[0])
                if found is None:
                    break
                command, words = found, words[1:]
            assert command is not cli, f"{page.name}: farshore {span}"
            known = {name for each in command.params for name in each.opts} | {"--help"}
            group = {
                name
                for each in getattr(command, "commands", {}).values()
                for parameter in each.params
                for name in parameter.opts
            }
            named = set(re.findall(r"--[a-z][a-z-]*", span))
            assert named <= known | group, f"{page.name}: farshore {span}"


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("farshore", "no-such-command orders"),
        ("farshore", "cut orders --no-such-option"),
        ("farshore", "cut"),
        ("farshore", "cut orders orders"),
        ("farshore", "config schema elsewhere"),
        ("farshore-primary", "--configuration primary.toml"),
    ],
)
def test_a_command_that_is_none_is_noticed(program: str, line: str) -> None:
    with pytest.raises(click.ClickException):
        check(PROGRAMS[program], line.split())


def test_every_make_target_of_the_pages_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    assert len(targets) > 8
    for page in PAGES:
        text = page.read_text()
        spans = re.findall(r"`make ([a-z][\w-]*)", text)
        lines = [line for block in shell_blocks(text) for line in block.splitlines()]
        spans += [
            m[1] for line in lines if (m := re.match(r"make ([a-z][\w-]*)", line))
        ]
        assert set(spans) <= targets, page.name
