"""Completion for bash, zsh and fish: click's scripts, which ask `farshore`."""

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

_FIRST_CALL = "[[ $zsh_eval_context[-1] == loadautofunc ]]"
_ANY_CALL = "[[ $funcstack[1] == _farshore ]]"
"""Of a function that zsh loads from a file, the file is the body: click's test holds
for its first call alone, so that the second tab would complete nothing."""


def script(shell: str) -> str:
    """Return what that shell reads."""
    found = get_completion_class(shell)
    assert found is not None
    # Not the class's own: bash's asks the bash of this machine for its version.
    text = ShellComplete.source(found(cli, {}, "farshore", "_FARSHORE_COMPLETE"))
    if shell == "zsh":
        assert _FIRST_CALL in text, "click writes zsh's script in another way now"
        text = text.replace(_FIRST_CALL, _ANY_CALL)
    return text


def write_completions(share: Path) -> list[Path]:
    """Write all scripts below a `share` folder; return the files."""
    written = []
    for shell, place in PLACES.items():
        file = share / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script(shell), encoding="utf-8")
        written.append(file)
    return written
