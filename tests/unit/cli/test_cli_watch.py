from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from common.cli.progress_view import Shrinking, progress_row
from common.cli.status_command import watch_lines, watch_screen
from common.cli.watch_view import Watched, sparkline
from common.errors import UnreachableError
from common.service.status import ProgressStatus


def status(version: str) -> dict[str, Any]:
    return {"site": "a", "role": "primary", "version": version, "groups": []}


def interrupt_after(count: int) -> Callable[[], None]:
    def pauses() -> Iterator[None]:
        yield from [None] * count
        raise KeyboardInterrupt

    iterator = pauses()
    return lambda: next(iterator)


def answers(*replies: dict[str, Any] | Exception) -> Callable[[], dict[str, Any]]:
    iterator = iter(replies)

    def fetch() -> dict[str, Any]:
        reply = next(iterator)
        if isinstance(reply, Exception):
            raise reply
        return reply

    return fetch


def screen() -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=True)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_screen_is_drawn_again_until_interrupted() -> None:
    console = screen()
    watch_screen(answers(status("1"), status("2")), interrupt_after(1), console)

    assert "farshore 1" in shown(console)
    assert "farshore 2" in shown(console)


def test_a_daemon_that_restarts_is_waited_for() -> None:
    console = screen()
    lost = UnreachableError("no daemon answers at x")
    watch_screen(answers(status("1"), lost, status("2")), interrupt_after(2), console)

    assert "trying again: no daemon answers at x" in shown(console)
    assert "farshore 2" in shown(console)


def test_a_daemon_that_was_never_there_is_an_error() -> None:
    with pytest.raises(UnreachableError):
        watch_screen(answers(UnreachableError("x")), interrupt_after(0), screen())


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    watch_lines(answers(status("1"), status("2")), interrupt_after(1))

    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["version"] for line in lines] == ["1", "2"]


# -- what a watched site was -------------------------------------------------------


def group(**figures: Any) -> dict[str, Any]:
    link = {"state": "connected", "session_sent_bytes": figures.pop("sent", None)}
    return {
        "name": "g",
        "state": "draining",
        "recovery_point_age_seconds": 1.0,
        "cycle_number": 5,
        "out_of_sync_bytes": 1 << 20,
        "link": {**link, "peers": [{"received_bytes": 7}]},
        "volumes": [],
        **figures,
    }


def drawn(view: Any) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(view)
    return shown(console)


def test_a_sparkline_goes_from_nothing_to_the_greatest() -> None:
    assert sparkline([0, 1, 2, 4], 10) == "▁▃▅█"
    assert sparkline([0, None, 0], 10) == "▁ ▁"
    assert sparkline(range(100), 3) == "███"
    assert sparkline([], 10) == ""


def test_age_and_rate_of_a_group_are_drawn_below_it() -> None:
    watched = Watched()
    for second, sent in enumerate([0, 1 << 20, 3 << 20]):
        watched.see({"groups": [group(sent=sent)]}, float(second))

    text = drawn(watched.view(100, 2.0))

    assert re.search(r"link +2\.00 MiB/s +▅█", text), text
    assert re.search(r"age +1\.0 s +███", text), text


def test_a_link_that_is_made_again_is_a_gap_and_no_rate() -> None:
    watched = Watched()
    for second, sent in enumerate([9 << 20, 0, 1 << 20]):
        watched.see({"groups": [group(sent=sent)]}, float(second))

    assert "█" in drawn(watched.view(100, 2.0))
    watched.see({"groups": [group(sent=5, link={"state": "down"})]}, 3.0)
    assert "/s" not in drawn(watched.view(100, 3.0)).splitlines()[-1]


def test_a_drain_that_is_watched_has_a_bar() -> None:
    watched = Watched()
    for second, left in enumerate([8 << 20, 6 << 20]):
        watched.see({"groups": [group(out_of_sync_bytes=left)]}, float(second))
    assert "g: cycle 5" in drawn(watched.view(100, 1.0))
    assert "2.00 MiB/s, ETA 3.0 s" in drawn(watched.view(100, 1.0))

    watched.see({"groups": [group(out_of_sync_bytes=1, cycle_number=6)]}, 2.0)
    assert "g: cycle" not in drawn(watched.view(100, 2.0))


def test_a_takeover_that_is_watched_gets_rate_and_time_left() -> None:
    watched = Watched()
    for second, done in enumerate([0, 2 << 20]):
        progress = ProgressStatus(
            operation="takeover", done_bytes=done, total_bytes=8 << 20
        )
        going_back = group(state="idle", progress=progress.to_json())
        watched.see({"groups": [going_back]}, float(second))
    assert "2.00 MiB/s, ETA 3.0 s" in drawn(watched.view(100, 1.0))

    progress = ProgressStatus(operation="scrub", done_bytes=1, total_bytes=8 << 20)
    watched.see({"groups": [group(state="idle", progress=progress.to_json())]}, 2.0)
    assert "ETA" not in drawn(watched.view(100, 2.0))


def test_what_grows_again_begins_anew() -> None:
    left = Shrinking()
    assert left.eta_seconds(0.0) is None
    left.see(100, 0.0)
    assert left.eta_seconds(1.0) is None
    left.see(50, 1.0)
    assert left.eta_seconds(1.0) == 1.0
    left.see(200, 2.0)
    assert left.row("x", 3.0) is None


@pytest.mark.parametrize(
    ("eta", "told"), [(None, ""), (0, "ETA now"), (5, "100 B/s, ETA 5.0 s")]
)
def test_a_bar_has_a_rate_as_soon_as_it_has_an_end(eta: float, told: str) -> None:
    text = drawn(progress_row("x", 500, 1000, eta))

    assert "50% 500 B of 1000 B" in text
    assert text.rstrip().endswith(told or "B")
