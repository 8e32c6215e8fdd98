"""`farshore volume`: what it asks the daemon for, and says before it removes one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from common.cli.main import cli
from common.cli.volume_command import removal_sentences
from tests.support.control_daemon import Daemon

Farshore = Callable[..., Result]

PLAN: dict[str, Any] = {
    "group": "orders",
    "volume": "logs",
    "size_bytes": 1 << 20,
    "device": "/dev/vg/logs",
    "is_joining": False,
    "hosts": 2,
}


def test_a_volume_is_added_by_its_name(daemon: Daemon, farshore: Farshore) -> None:
    added = {"group": "orders", "volume": "logs", "size_bytes": 1 << 20}
    daemon.replies["volume"] = lambda _: added
    options = ("--socket", daemon.path)
    result = farshore("volume", "add", "orders/logs", *options)
    assert result.exit_code == 0, result.output
    assert "orders/logs: added, 1.00 MiB" in result.stdout
    asked = {"group": "orders", "action": "add", "volume": "logs", "cut_off": False}
    assert daemon.received == [("volume", asked)]
    result = farshore("volume", "add", "orders/logs", "--json", *options)
    assert json.loads(result.stdout) == added
    result = farshore("volume", "add", "logs", *options)
    assert result.exit_code == 2
    assert "name a volume as GROUP/VOLUME" in result.stderr


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_removal_says_what_it_does_and_asks(daemon: Daemon, answer: str) -> None:
    daemon.replies["volume"] = lambda _: PLAN
    typed = ("volume", "remove", "orders/logs", "--socket", daemon.path)
    result = CliRunner().invoke(cli, typed, input=answer)
    for sentence in removal_sentences("orders/logs", PLAN):
        assert sentence in result.stderr
    actions = [arguments["action"] for _, arguments in daemon.received]
    if answer == "y":
        assert result.exit_code == 0
        assert actions == ["plan", "remove"]
        assert daemon.received[-1][1]["cut_off"], "that was told, and agreed to"
        assert "orders/logs: removed" in result.stdout
    else:
        assert result.exit_code == 1
        assert actions == ["plan"]


def test_yes_asks_nothing_and_cuts_hosts_off(
    daemon: Daemon, farshore: Farshore
) -> None:
    daemon.replies["volume"] = lambda _: PLAN
    typed = ("volume", "remove", "orders/logs", "--yes", "--json")
    result = farshore(*typed, "--socket", daemon.path)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == PLAN
    assert daemon.received[-1][1]["cut_off"]


def test_what_goes_and_what_stays_is_told() -> None:
    told = " ".join(removal_sentences("orders/logs", PLAN))
    assert "2 connections" in told
    assert "/dev/vg/logs, is left as it is" in told
    assert "those of before keep it" in told
    joining = {**PLAN, "is_joining": True, "hosts": 0}
    told = " ".join(removal_sentences("orders/logs", joining))
    assert "first copy is given up" in told
    assert "connections" not in told
