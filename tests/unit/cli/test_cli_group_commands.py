from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from common.errors import NotCommittedError, RefusedError
from common.service.status import (
    AlarmStatus,
    CutStatus,
    GroupRole,
    GroupState,
    GroupStatus,
    LastCycleStatus,
    LinkState,
    LinkStatus,
    PointStatus,
    ProgressStatus,
    RecoveryPointStatus,
    SiteStatus,
    VolumeStatus,
)
from tests.support.control_daemon import Daemon

Farshore = Callable[..., Result]


def site(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "orders",
        "role": GroupRole.SENDING,
        "state": GroupState.FIRST_COPY,
        "cycle_number": 8,
        "recovery_point": RecoveryPointStatus(
            number=7, cut_ns=0, current_as_of_ns=0, label="[bold]x\x1b[31m"
        ),
        "recovery_point_age_seconds": 1.25,
        "link": LinkStatus(state=LinkState.CONNECTED),
        "changed_bytes": 3 << 20,
        "out_of_sync_bytes": 5 << 30,
        "last_cycle": LastCycleStatus(
            number=7,
            hold_seconds=0.0012,
            drain_seconds=1,
            tracks=1,
            bytes_changed=1,
            bytes_on_wire=2048,
        ),
        "volumes": (VolumeStatus(name="d", size_bytes=1 << 30, track_bytes=4096),),
        "progress": ProgressStatus(
            operation="first_copy",
            done_bytes=1 << 29,
            total_bytes=1 << 30,
            eta_seconds=125,
        ),
        "alarms": (AlarmStatus(name="cut_starved", message="hosts \x1b[2J"),),
    }
    group = GroupStatus(**values | changes)
    return SiteStatus(
        site="amsterdam", role="primary", version="0.1.0", groups=(group,)
    ).to_json()


def cut_result(*, committed: bool) -> dict[str, Any]:
    return CutStatus(
        number=3, cut_ns=0, hold_seconds=0.0012, committed=committed
    ).to_json()


def test_status_shows_what_an_operator_asks_first(
    daemon: Daemon, farshore: Farshore
) -> None:
    daemon.replies["status"] = lambda _: site()
    result = farshore("status", "--socket", daemon.path)

    assert result.exit_code == 0
    for words in (
        "amsterdam (primary), farshore 0.1.0",
        "first copy",
        "1.2 s",
        "connected (plain text)",
        "3.00 MiB",
        "5.00 GiB",
        "1.2 ms",
        "2.00 KiB",
        "1 (1.00 GiB)",
        "50% 512 MiB of 1.00 GiB 4.10 MiB/s, ETA 2 min 5 s",
        "alarm: orders: cut_starved: hosts \\x1b[2J",
    ):
        assert words in result.output
    assert "\x1b" not in result.output


def test_status_of_a_group_of_which_little_is_known(
    daemon: Daemon, farshore: Farshore
) -> None:
    unknown = dict.fromkeys(
        (
            "recovery_point",
            "recovery_point_age_seconds",
            "cycle_number",
            "last_cycle",
            "progress",
            "changed_bytes",
            "out_of_sync_bytes",
        )
    )
    daemon.replies["status"] = lambda _: site(
        **unknown, link=LinkStatus(state=LinkState.DOWN), alarms=(), volumes=()
    )
    result = farshore("status", "--socket", daemon.path)

    assert result.exit_code == 0
    assert "None" not in result.output


def test_status_json_is_the_daemon_s_object(daemon: Daemon, farshore: Farshore) -> None:
    daemon.replies["status"] = lambda _: site()
    result = farshore("status", "--json", "--socket", daemon.path)

    assert json.loads(result.output) == site()
    assert daemon.received == [("status", {})]


def test_cut_says_what_became_of_it(daemon: Daemon, farshore: Farshore) -> None:
    daemon.replies["cut"] = lambda _: cut_result(committed=False)
    result = farshore("cut", "orders", "--socket", daemon.path)

    assert result.exit_code == 0
    assert result.output == (
        "orders: cut 3 at 1970-01-01T00:00:00.000000Z, writes held 1.2 ms, "
        "not yet committed\n"
    )
    assert daemon.received == [
        ("cut", {"group": "orders", "wait": False, "label": None})
    ]


def test_a_cut_waited_for_passes_its_label_and_ends_with_0_when_safe(
    daemon: Daemon, farshore: Farshore
) -> None:
    daemon.replies["cut"] = lambda _: cut_result(committed=True)
    result = farshore(
        *("cut", "orders", "--wait", "--label", "before upgrade", "--json"),
        *("--socket", daemon.path),
    )

    assert result.exit_code == 0
    assert json.loads(result.stdout) == cut_result(committed=True)
    assert daemon.received == [
        ("cut", {"group": "orders", "wait": True, "label": "before upgrade"})
    ]


def test_a_cut_waited_for_that_is_not_safe_ends_with_9(
    daemon: Daemon, farshore: Farshore
) -> None:
    def abandoned(_: dict[str, Any]) -> Any:
        raise NotCommittedError("orders: the cycle was abandoned")

    for reply in (abandoned, lambda _: cut_result(committed=False)):
        daemon.replies["cut"] = reply
        result = farshore("cut", "orders", "--wait", "--socket", daemon.path)
        assert result.exit_code == 9
        assert "next: farshore status" in result.stderr


def test_suspend_and_resume_name_the_next_command(
    daemon: Daemon, farshore: Farshore
) -> None:
    daemon.replies["suspend"] = daemon.replies["resume"] = lambda _: None
    suspended = farshore("suspend", "orders", "--socket", daemon.path)
    resumed = farshore("resume", "orders", "--socket", daemon.path)
    as_json = farshore("resume", "orders", "--json", "--socket", daemon.path)

    assert "farshore resume orders" in suspended.output
    assert "farshore status --watch" in resumed.output
    assert json.loads(as_json.output) == {"group": "orders", "suspended": False}
    commands = [command for command, _ in daemon.received]
    assert commands == ["suspend", "resume", "resume"]


def test_points_are_listed_without_their_labels_acting_up(
    daemon: Daemon, farshore: Farshore
) -> None:
    point = PointStatus(
        number=7,
        cut_ns=0,
        current_as_of_ns=10**9,
        label="[red]nightly\x1b[31m",
        size_bytes=4096,
        pinned=True,
    ).to_json()
    daemon.replies["points"] = lambda _: [point]
    listed = farshore("points", "orders", "--socket", daemon.path)
    as_json = farshore("points", "orders", "--json", "--socket", daemon.path)

    for words in ("7", "1970-01-01T00:00:01.000000Z", "4.00 KiB", "[red]nightly\\x1b"):
        assert words in listed.output
    assert "\x1b" not in listed.output
    assert json.loads(as_json.output) == [point]


def test_points_that_only_the_other_site_has_are_told_from_those_here(
    daemon: Daemon, farshore: Farshore
) -> None:
    there, here = (
        PointStatus(
            number=number, cut_ns=0, current_as_of_ns=0, size_bytes=0, here=is_here
        ).to_json()
        for number, is_here in ((8, False), (7, True))
    )
    del here["here"]  # as a daemon of before that key has it
    daemon.replies["points"] = lambda _: [there, here]
    told = farshore("points", "orders", "--socket", daemon.path).output
    newest, older = told.splitlines()[1:3]
    assert "other site" in newest
    assert "0 B" not in newest
    assert "here" in older
    daemon.replies["points"] = lambda _: [here]
    told = farshore("points", "orders", "--socket", daemon.path).output
    assert "here" not in told, "where all are here nothing need be said"


def test_no_points_yet_is_said(daemon: Daemon, farshore: Farshore) -> None:
    daemon.replies["points"] = lambda _: []

    assert (
        "no recovery point yet"
        in farshore("points", "orders", "--socket", daemon.path).output
    )


def test_a_refusal_is_the_daemon_s_sentence_and_code(
    daemon: Daemon, farshore: Farshore
) -> None:
    def refuse(_: dict[str, Any]) -> Any:
        raise RefusedError("there is no group 'x\x1b': it has orders")

    daemon.replies["suspend"] = refuse
    result = farshore("suspend", "x", "--socket", daemon.path)

    assert result.exit_code == 8
    assert result.stdout == ""
    assert result.stderr == (
        "farshore: there is no group 'x\\x1b': it has orders\nnext: farshore status\n"
    )


def test_no_daemon_is_7_with_the_socket_and_a_remedy(
    farshore: Farshore, tmp_path: Path
) -> None:
    path = str(tmp_path / "none.sock")
    result = farshore("status", "--socket", path)

    assert result.exit_code == 7
    assert path in result.stderr
    assert "--socket PATH" in result.stderr


def test_the_socket_is_found_by_option_then_config_then_environment(
    daemon: Daemon, farshore: Farshore, tmp_path: Path
) -> None:
    daemon.replies["status"] = lambda _: site()
    config = tmp_path / "remote.toml"
    vector = Path(__file__).parents[2] / "vectors/config/remote-valid.toml"
    config.write_text(
        vector.read_text().replace(
            'name = "b"\n', 'name = "b"\ncontrol_socket = "control.sock"\n'
        )
    )
    wrong = str(tmp_path / "wrong.sock")

    assert farshore("status", FARSHORE_SOCKET=daemon.path).exit_code == 0
    assert farshore("status", "--config", str(config)).exit_code == 0
    by_config = farshore("status", "--config", str(config), FARSHORE_SOCKET=wrong)
    assert by_config.exit_code == 0
    by_option = farshore("status", "--socket", wrong, FARSHORE_SOCKET=daemon.path)
    assert by_option.exit_code == 7


@pytest.mark.parametrize("command", ["cut", "suspend", "resume", "points"])
def test_a_group_must_be_named(command: str, farshore: Farshore) -> None:
    result = farshore(command)

    assert result.exit_code == 2
    assert "Missing argument 'GROUP'" in result.stderr
