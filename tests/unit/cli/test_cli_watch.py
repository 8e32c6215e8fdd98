from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from common.cli.status_command import watch_lines, watch_screen
from common.errors import UnreachableError


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
