"""Completion for bash, zsh and fish: click's own scripts, which ask `farshore`."""

from __future__ import annotations

from pathlib import Path

from click.shell_completion import ShellComplete, get_completion_class

from common.cli.main import cli

PLACES = {
    "bash": "bash-completion/completions/farshore",
    "zsh": "zsh/site-functions/_farshore",
    "fish": "fish/vendor_completions.d/farshore.fish",
}
"""Below a `share` folder, where each shell looks by itself."""


def script(shell: str) -> str:
    """Return what that shell reads."""
    found = get_completion_class(shell)
    assert found is not None
    # Not the class's own: bash's asks the bash of this machine for its version.
    return ShellComplete.source(found(cli, {}, "farshore", "_FARSHORE_COMPLETE"))


def write_completions(share: Path) -> list[Path]:
    """Write all scripts below a `share` folder; return the files."""
    written = []
    for shell, place in PLACES.items():
        file = share / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script(shell), encoding="utf-8")
        written.append(file)
    return written
