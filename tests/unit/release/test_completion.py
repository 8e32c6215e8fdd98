"""Completion as a shell asks for it, from the script that is shipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from release.completions import PLACES, write_completions

ASK = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={index}
_farshore_completion farshore
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("farshore test-copy st", {"start", "stop"}),
        ("farshore nothing-like-it", {""}),
    ],
)
def test_bash_is_told_all_that_may_follow(
    tmp_path: Path, words: str, expected: set[str]
) -> None:
    write_completions(tmp_path)
    script = ASK.format(
        script=tmp_path / PLACES["bash"], words=words, index=len(words.split()) - 1
    )
    folder = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.splitlines()) == expected


def test_there_is_a_script_for_each_shell(tmp_path: Path) -> None:
    for file in write_completions(tmp_path):
        assert "_FARSHORE_COMPLETE=" in file.read_text()
    assert set(PLACES) == {"bash", "zsh", "fish"}
