"""Commands on a real terminal: a pseudo-terminal, with a window and keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.cli.watch_view import BARS
from tests.support.sites import Pair, VolumeSpec, command_path, until

MIB = 1 << 20
ROWS, COLUMNS = 30, 120
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
SHOW_CURSOR = "\x1b[?25h"
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
def terminal(*words: str) -> Iterator[Terminal]:
    """Run `farshore` in a terminal of its own."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    told = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [
            # A test that was started in the background has Ctrl-C ignored.
            *("env", "--default-signal=INT", "setsid", "--ctty"),
            command_path("farshore"),
            *words,
        ],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**told, "TERM": "xterm-256color"},
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


async def test_a_first_copy_is_watched_on_the_whole_screen(tmp_path: Path) -> None:
    slow = {"bandwidth": "64KiB/s", "compression": "off"}
    with Pair(tmp_path, [VolumeSpec("v", 8 * MIB)], link=slow) as pair:
        pair.device("v").write_bytes(os.urandom(8 * MIB))
        await pair.start()
        socket = ("--socket", pair.primary.control_socket)
        with terminal("cut", "g", "--wait", *socket) as cutting:
            await cutting.shows("the wait", lambda text: "cutting g" in text)
            with terminal("status", "--watch", *socket) as watching:
                await watching.shows(
                    "a bar with rate and time left",
                    lambda text: bool(
                        re.search(r"g: first copy .*%.*iB of 8.00 MiB .*/s, ETA", text)
                    ),
                )
                await watching.shows(
                    "a line of rates",
                    lambda text: bool(
                        re.search(rf"link +\S+ [KM]?i?B/s +[{BARS}]", text)
                    ),
                )

                assert await watching.interrupted() == 0

                before, _, after = watching.seen.rpartition(LEAVE_SCREEN)
                assert ENTER_SCREEN in before
                assert SHOW_CURSOR in watching.seen.partition(ENTER_SCREEN)[2]
                assert "first copy" in CONTROL.sub("", after), "it stays to be read"
            assert await cutting.interrupted() == 130
        assert pair.primary.group()["state"] == "first_copy", "the cut goes on"


async def test_a_verify_shows_a_bar_and_outlives_its_command(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", 8 * MIB)]) as pair:
        pair.device("v").write_bytes(os.urandom(8 * MIB))
        await pair.start()
        await pair.cut()
        words = ("verify", "g", "--rate", "256KiB/s")
        with terminal(*words, "--socket", pair.primary.control_socket) as verifying:
            await verifying.shows(
                "a bar with rate and time left",
                lambda text: bool(
                    re.search(r"verifying g .*%.*of 8.00 MiB .*/s, ETA", text)
                ),
            )

            assert await verifying.interrupted() == 130
        report = pair.primary.call("verify", group="g", action="report")
        assert report["result"] is None, "Ctrl-C ends the wait alone"


async def test_errors_say_what_to_type_next(tmp_path: Path) -> None:
    with terminal("status", "--socket", str(tmp_path / "none.sock")) as asking:
        await asking.shows("the next command", lambda text: "next: systemctl" in text)
        await until(lambda: asking.process.poll() is not None, "it ends")
        assert asking.process.returncode == 7
