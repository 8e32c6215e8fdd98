"""Commands on a real terminal: a pseudo-terminal, with a window and keys."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from pathlib import Path

from common.cli.watch_view import BARS
from tests.support.sites import Pair, VolumeSpec, command_path, until
from tests.support.terminal import CONTROL, Terminal, terminal

MIB = 1 << 20
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
SHOW_CURSOR = "\x1b[?25h"


def farshore(*words: str) -> AbstractContextManager[Terminal]:
    return terminal(command_path("farshore"), *words)


async def test_a_first_copy_is_watched_on_the_whole_screen(tmp_path: Path) -> None:
    slow = {"bandwidth": "64KiB/s", "compression": "off"}
    with Pair(tmp_path, [VolumeSpec("v", 8 * MIB)], link=slow) as pair:
        pair.device("v").write_bytes(os.urandom(8 * MIB))
        await pair.start()
        socket = ("--socket", pair.primary.control_socket)
        with farshore("cut", "g", "--wait", *socket) as cutting:
            await cutting.shows("the wait", lambda text: "cutting g" in text)
            with farshore("status", "--watch", *socket) as watching:
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
        with farshore(*words, "--socket", pair.primary.control_socket) as verifying:
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
    with farshore("status", "--socket", str(tmp_path / "none.sock")) as asking:
        await asking.shows("the next command", lambda text: "next: systemctl" in text)
        await until(lambda: asking.process.poll() is not None, "it ends")
        assert asking.process.returncode == 7
