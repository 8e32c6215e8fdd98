"""What the pages have readers type: the commands of a page's shell blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("farshore", "farshore-primary", "farshore-remote")
SHELL = {"", "sh", "console", "text"}
"""Languages of blocks that commands are printed in."""


def shell_blocks(text: str) -> Iterator[str]:
    for language, block in re.findall(
        r"^ *```(\w*)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE
    ):
        if language in SHELL:
            yield block


def _commands(block: str) -> Iterator[list[str]]:
    """Yield the words of each command of a block, as a shell would split them."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(
            line.strip().removeprefix("$ "), posix=True, punctuation_chars=True
        )
        lexer.whitespace_split = True
        words: list[str] = []
        try:
            for word in lexer:
                if set(word) <= set("();<>|&"):
                    yield words
                    words = []
                else:
                    words.append(word)
        except ValueError:  # a drawing, or a text of several lines
            continue
        yield words


def typed(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield our programs, each with its arguments: typed as commands, by their path,
    or run by another one."""
    for block in shell_blocks(text):
        for words in _commands(block):
            for index, word in enumerate(words):
                program = Path(word).name
                before = words[index - 1] if index else "sudo"
                if program in PROGRAMS and (
                    "bin/" in word or before in {"sudo", "root"}
                ):
                    yield program, words[index + 1 :]
                    break
