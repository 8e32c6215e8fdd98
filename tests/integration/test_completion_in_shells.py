"""Completion as it is typed: shipped scripts in bash, zsh and fish, on a terminal."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from common.cli.daemon_options import SOCKET_VARIABLE
from release.completions import PLACES, write_completions
from tests.support.control_daemon import Daemon
from tests.support.daemon import until
from tests.support.terminal import Terminal, terminal

PROMPT = "ready>"
TO_START, TO_END = "\x01", "\x05"

TYPED = {
    "a command": ("farshore poi", "farshore points"),
    "a group": ("farshore cut or", "farshore cut orders"),
    "a volume": ("farshore grow --wait orders/", "farshore grow --wait orders/data"),
    "an option behind a group and a value": (
        "farshore drill g --point 3 --pro",
        "farshore drill g --point 3 --probe",
    ),
}

SITE = {"groups": [{"name": "orders", "volumes": [{"name": "data"}]}]}


def bash(share: Path, home: Path) -> list[str]:
    """As bash-completion loads it: the file of the command's name."""
    start = home / "start"
    start.write_text(f"PS1='{PROMPT}'; . {share / PLACES['bash']}")
    return ["bash", "--noprofile", "--rcfile", str(start)]


def zsh(share: Path, home: Path) -> list[str]:
    """As zsh finds it: a function of its `fpath`."""
    (home / ".zshrc").write_text(
        f"PROMPT='{PROMPT}'; bindkey -e; fpath=({(share / PLACES['zsh']).parent} "
        f"$fpath); autoload -Uz compinit; compinit -u -d {home}/dump"
    )
    return ["zsh", "--no-global-rcs", "-i"]


def fish(share: Path, home: Path) -> list[str]:
    """As fish finds it: a file of a data folder's `vendor_completions.d`."""
    show = f"function fish_prompt; echo -n '{PROMPT}'; end; set -g fish_greeting"
    return ["fish", "--init-command", show]


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


@pytest.mark.parametrize(
    "shell",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                shutil.which(name) is None, reason=f"needs {name}, an optional package"
            ),
        )
        for name in SHELLS
    ],
)
async def test_what_is_begun_is_completed_by_a_tab(shell: str, tmp_path: Path) -> None:
    share, home = tmp_path / "share", tmp_path / "home"
    write_completions(share)
    home.mkdir()
    told = {
        "HOME": str(home),
        "ZDOTDIR": str(home),
        "XDG_CONFIG_HOME": str(home),
        "XDG_DATA_HOME": str(home),
        "XDG_DATA_DIRS": f"{share}:/usr/share",
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    with (
        tempfile.TemporaryDirectory() as short,
        Daemon(f"{short}/control") as daemon,
        terminal(
            *SHELLS[shell](share, home), told=told | {SOCKET_VARIABLE: daemon.path}
        ) as typing,
    ):
        daemon.replies["status"] = lambda _: SITE
        await typing.shows("a prompt", lambda text: PROMPT in text)
        for what, (begun, whole) in TYPED.items():
            assert await completed(typing, begun, home / "line") == whole, what


async def completed(typing: Terminal, begun: str, line: Path) -> str:
    """Type what is begun, and a tab; return the line that the shell makes of it."""
    # The line is then the argument of an `echo`: nothing has to be read off a screen.
    typing.type(f"{begun}\t{TO_START}echo {TO_END}>{line}.new; mv {line}.new {line}\r")

    def is_there() -> bool:
        typing.text()  # or the shell waits until what it writes is taken
        return line.exists()

    await until(is_there, f"the shell has made a line of {begun!r}")
    made = line.read_text().strip()
    line.unlink()
    return made
