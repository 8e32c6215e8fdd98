"""`farshore test-copy`: what it asks the daemon for, and says of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from click.testing import Result

from common.errors import RefusedError
from tests.support.control_daemon import Daemon

Farshore = Callable[..., Result]

URI = "nbd+unix:///orders/data+copy1?socket=/run/recovery.sock"
COPY = {
    "name": "copy1",
    "point": 7,
    "cut_time": "2026-01-01T00:00:00.000000Z",
    "label": None,
    "started": "2026-01-01T00:00:01.000000Z",
    "bytes": 8192,
    "connections": 1,
    "exports": [
        {
            "volume": "data",
            "export": "orders/data+copy1",
            "size_bytes": 1 << 20,
            "uris": [URI],
        }
    ],
}


def test_start_names_the_uris_and_how_to_end_it(
    daemon: Daemon, farshore: Farshore
) -> None:
    daemon.replies["test-copy"] = lambda _: [COPY]
    words = ("test-copy", "start", "orders", "--point", "7", "--socket", daemon.path)
    result = farshore(*words)
    assert result.exit_code == 0, result.output
    assert URI in result.stdout
    assert "farshore test-copy stop orders --name copy1" in result.stdout
    asked = {"group": "orders", "action": "start", "name": None, "point": 7}
    assert daemon.received == [("test-copy", asked)]
    assert json.loads(farshore(*words, "--json").stdout) == COPY


def test_stop_says_what_was_given_up(daemon: Daemon, farshore: Farshore) -> None:
    daemon.replies["test-copy"] = lambda _: [COPY]
    words = ("test-copy", "stop", "orders", "--name", "copy1", "--socket", daemon.path)
    assert "copy1 ended, 8.00 KiB given up" in farshore(*words).stdout
    ((_, asked),) = daemon.received
    assert (asked["action"], asked["name"]) == ("stop", "copy1")


def test_list_shows_each_or_that_there_is_none(
    daemon: Daemon, farshore: Farshore
) -> None:
    found: list[Any] = [COPY]
    daemon.replies["test-copy"] = lambda _: found
    words = ("test-copy", "list", "orders", "--socket", daemon.path)
    assert "orders/data+copy1" in farshore(*words).stdout
    found.clear()
    assert farshore(*words).stdout == "orders: no test copy\n"


def test_a_refusal_is_said(daemon: Daemon, farshore: Farshore) -> None:
    def refuse(_: Any) -> Any:
        raise RefusedError("group orders has no recovery point here")

    daemon.replies["test-copy"] = refuse
    result = farshore("test-copy", "start", "orders", "--socket", daemon.path)
    assert result.exit_code == RefusedError.exit_code
    assert "no recovery point here" in result.stderr
