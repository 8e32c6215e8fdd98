"""Run other people's NBD clients, and make data to give them."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

MIB = 1 << 20
COMMAND_SECONDS = 120.0
SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's, which has libnbd's binding; the one that runs the tests may not."""


def attempt(
    *words: object, lines: Sequence[str] = (), seconds: float = COMMAND_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever that is; `lines` are its input."""
    return subprocess.run(
        [str(word) for word in words],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def run(
    *words: object, codes: tuple[int, ...] = (0,), lines: Sequence[str] = ()
) -> str:
    """Run a command that has to end with one of `codes`; return what it said."""
    done = attempt(*words, lines=lines)
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode in codes, f"{words} ended with {done.returncode}:\n{said}"
    return done.stdout


def pattern(size: int, seed: int = 1) -> bytes:
    """Return data with long runs of zeroes, so that clients see holes."""
    chance = random.Random(seed)
    content = bytearray(size)
    for _ in range(40):
        start = chance.randrange(size)
        length = min(chance.randrange(1, 200_000), size - start)
        content[start : start + length] = chance.randbytes(length)
    return bytes(content)


def sparse_file(path: Path, content: bytes, block_bytes: int = 4096) -> Path:
    """Write content to a new file, with holes where whole blocks are zero."""
    with path.open("wb") as file:
        for at in range(0, len(content), block_bytes):
            block = content[at : at + block_bytes]
            if any(block):
                file.seek(at)
                file.write(block)
        file.truncate(len(content))
    return path
