"""A real terminal for a command: a pseudo-terminal, with a window and keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tests.support.daemon import until

ROWS, COLUMNS = 30, 120
CTRL_C = b"\x03"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """One command that runs in a terminal; `seen` is all that it has written."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self.seen = ""

    def text(self) -> str:
        """Return what has been written up to now, without what moves the cursor."""
        while select.select([self._descriptor], [], [], 0)[0]:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except OSError:  # EIO: the other end is closed
                break
            self.seen += data.decode(errors="replace")
        return CONTROL.sub("", self.seen)

    async def shows(self, what: str, condition: Callable[[str], bool]) -> None:
        await until(lambda: condition(self.text()), f"{what} is shown")

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    async def interrupted(self) -> int:
        """Press Ctrl-C; return the exit code."""
        os.write(self._descriptor, CTRL_C)

        def has_ended() -> bool:
            self.text()  # or it waits until what it writes is taken
            return self.process.poll() is not None

        await until(has_ended, "it ends")
        self.text()
        assert self.process.returncode is not None
        return self.process.returncode


@contextmanager
def terminal(*words: str, told: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """Run a command in a terminal of its own; `told` goes into its environment."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [
            # A test that was started in the background has Ctrl-C ignored.
            *("env", "--default-signal=INT", "setsid", "--ctty"),
            *words,
        ],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**kept, "TERM": "xterm-256color", **(told or {})},
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
