"""What takeover, failback and switchover say once they are through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from common.errors import RefusedError
from tests.support.control_daemon import Daemon

Farshore = Callable[..., Result]

DONE = {
    "group": "orders",
    "point": 7,
    "lineage": "b" * 32,
    "parent": "a" * 32,
    "cut_time": "2026-11-23T02:15:07.318Z",
    "fork": 8,
}


@pytest.mark.parametrize(
    ("command", "next_step"),
    [
        ("takeover", "to see it: farshore status"),
        ("failback", "at the other site: farshore switchover orders"),
        ("switchover", "to see it: farshore status, at both sites"),
    ],
)
def test_the_next_step_stands_on_a_line_of_its_own(
    daemon: Daemon, farshore: Farshore, command: str, next_step: str
) -> None:
    plan = {"sentences": [], "has_begun": False}
    daemon.replies = {
        "takeover": lambda asked: plan if asked["action"] == "plan" else DONE,
        "failback": lambda _: DONE,
        "switchover": lambda _: DONE,
        "status": lambda _: {"groups": []},
    }
    result = farshore(command, "orders", "--yes", "--socket", daemon.path)
    assert result.exit_code == 0, result.output
    first, *_, last = result.stdout.splitlines()
    assert first.startswith("orders: ")
    assert last.endswith(next_step)
    assert "\\" not in result.stdout


@pytest.mark.parametrize(
    ("role", "refusal"),
    [("sending", "nothing to fail back to"), ("receiving", "receives group 'orders'")],
)
def test_a_failback_that_would_be_refused_is_not_asked_about(
    daemon: Daemon, farshore: Farshore, role: str, refusal: str
) -> None:
    group = {"name": "orders", "role": role, "role_change": None}
    daemon.replies = {"status": lambda _: {"groups": [group]}}
    result = farshore("failback", "orders", "--socket", daemon.path)
    assert result.exit_code == 8
    assert refusal in result.stderr
    assert "[y/N]" not in result.stderr


@pytest.mark.parametrize(
    ("role", "link", "refusal"),
    [
        ("receiving", "connected", "run the command at the other site"),
        ("sending", "down", "no link to its remote now (down)"),
    ],
)
def test_a_switchover_that_would_be_refused_is_not_asked_about(
    daemon: Daemon, farshore: Farshore, role: str, link: str, refusal: str
) -> None:
    group = {"name": "orders", "role": role, "link": {"state": link}}
    daemon.replies = {"status": lambda _: {"groups": [group]}}
    result = farshore("switchover", "orders", "--socket", daemon.path)
    assert result.exit_code == 8
    assert refusal in result.stderr
    assert "[y/N]" not in result.stderr


@pytest.mark.parametrize(
    ("answer", "told"),
    [("n\n", "nothing was changed"), ("", "--yes says it beforehand")],
)
def test_who_does_not_say_yes_is_told_that_nothing_was_changed(
    daemon: Daemon, farshore: Farshore, answer: str, told: str
) -> None:
    group = {"name": "orders", "role": "sending", "link": {"state": "connected"}}
    daemon.replies = {"status": lambda _: {"groups": [group]}}
    result = farshore("switchover", "orders", "--socket", daemon.path, answer=answer)
    assert result.exit_code == 1
    assert told in result.stderr
    assert "Aborted" not in result.stderr
    assert [command for command, _ in daemon.received] == ["status"]


def test_a_fork_that_is_not_kept_is_not_asked_about(
    daemon: Daemon, farshore: Farshore
) -> None:
    def reply(asked: dict[str, Any]) -> Any:
        if asked["action"] == "list":
            return []
        raise RefusedError("group orders has no fork 5; it has: none")

    daemon.replies = {"forks": reply}
    result = farshore("forks", "delete", "orders", "5", "--socket", daemon.path)
    assert result.exit_code == 8
    assert "no fork 5" in result.stderr
    assert "[y/N]" not in result.stderr
