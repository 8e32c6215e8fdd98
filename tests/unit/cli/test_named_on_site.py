"""Names that completion offers: of the daemon, of a config, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from common.cli.main import cli
from tests.support.control_daemon import Daemon

CONFIG = Path(__file__).parents[3] / "config/primary.toml"
SITE = {
    "groups": [
        {"name": "orders", "volumes": [{"name": "data"}, {"name": "log"}]},
        {"name": "other", "volumes": []},
    ]
}


def offered(*words: str) -> list[str]:
    *typed, begun = words
    asked = ShellComplete(cli, {}, "farshore", "_FARSHORE_COMPLETE")
    return [item.value for item in asked.get_completions(list(typed), begun)]


def test_the_daemon_s_groups_and_volumes_are_offered(daemon: Daemon) -> None:
    daemon.replies["status"] = lambda _: SITE
    socket = ("--socket", daemon.path)

    assert offered("cut", *socket, "") == ["orders", "other"]
    assert offered("test-copy", "start", *socket, "or") == ["orders"]
    assert offered("grow", *socket, "orders/") == ["orders/data", "orders/log"]
    assert offered("volume", "remove", *socket, "orders/l") == ["orders/log"]


def test_the_config_of_a_daemon_that_does_not_run_is_asked_instead() -> None:
    (group,) = offered("forget", "--config", str(CONFIG), "")
    assert offered("grow", "--config", str(CONFIG), f"{group}/")


@pytest.mark.parametrize("told", [(), ("--config", "/nonexistent")])
def test_who_knows_nothing_offers_nothing(
    told: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARSHORE_SOCKET", "/nonexistent")

    assert offered("cut", *told, "") == []
