"""Changes of roles as `farshore status` shows them, from the daemons' own models."""

from __future__ import annotations

from typing import Any

import pytest

from common.cli.role_change_view import STEPS, role_change_lines
from common.replication.lineage import CycleName, Fork
from common.service.role_status import role_change, with_split_brain
from common.service.split_brain import ALARM, split_brain_text
from common.service.status import (
    AlarmStatus,
    GroupRole,
    GroupState,
    GroupStatus,
    LinkState,
    LinkStatus,
    ProgressStatus,
    RoleChangeStatus,
    RoleStep,
)

FORK = Fork(
    lineage=b"n" * 16,
    parent=b"o" * 16,
    cycle=CycleName(7, b"c" * 16),
    cut_ns=1_000_000_000,
    at_ns=61_000_000_000,
)
POINT = "point 7, cut at 1970-01-01T00:00:01.000000Z"


def shown(
    step: RoleStep | None, *, link: LinkState = LinkState.DOWN, **changes: Any
) -> list[str]:
    told = None if step is None else role_change(step, FORK)
    status = GroupStatus(
        **{
            "name": "orders",
            "role": GroupRole.SENDING,
            "state": GroupState.IDLE,
            "link": LinkStatus(state=link),
            "role_change": told,
            **changes,
        }
    )
    return [str(line) for line in role_change_lines(with_split_brain(status).to_json())]


def test_every_step_has_its_words_and_no_other_has() -> None:
    assert set(STEPS) == {str(step) for step in RoleStep}
    for step in RoleStep:
        assert shown(step)[0].startswith("orders: ")
        assert "None" not in " ".join(shown(step))
    assert shown(None) == []


def test_who_is_followed_and_has_no_link_now_is_told_of_no_failback() -> None:
    (only,) = shown(RoleStep.TAKEN_OVER, state=GroupState.DISCONNECTED)
    assert "the other site follows this one, and has no link now" in only


def test_a_superseded_site_may_follow_or_go_on() -> None:
    said, follow, go_on = shown(RoleStep.SUPERSEDED)

    assert f"taken over from {POINT}, at 1970-01-01T00:01:01.000000Z" in said
    assert follow.startswith("next: farshore failback orders (here)")
    assert go_on.startswith("next: farshore takeover orders --force (here)")


@pytest.mark.parametrize("is_forked_here", [True, False])
def test_a_split_brain_says_what_to_type_where(is_forked_here: bool) -> None:
    text = split_brain_text("orders", FORK, b"x" * 16, is_forked_here=is_forked_here)
    said, *choices = shown(None, alarms=(AlarmStatus(name=ALARM, message=text),))

    assert "both sites serve hosts" in said
    taker, keeper = ("this", "the other") if is_forked_here else ("the other", "this")
    asked = "at the other site" if is_forked_here else "here"
    assert choices[0] == (
        f"next: To keep {taker} site's data: farshore failback orders {asked}"
    )
    assert choices[1].startswith(
        f"next: To keep {keeper} site's: farshore takeover orders --force {asked}, "
        "then farshore failback orders"
    )
    assert len(choices) == 2


def test_what_follows_a_takeover_depends_on_the_other_site() -> None:
    (said, command) = shown(RoleStep.TAKEN_OVER)
    assert POINT in said
    assert command.startswith("next: farshore failback orders (at the other site)")

    connected = LinkState.CONNECTED
    for operation in ("failback", "compare"):
        going = ProgressStatus(operation=operation, done_bytes=1, total_bytes=2)
        (said,) = shown(RoleStep.TAKEN_OVER, link=connected, progress=going)
        assert said.endswith("failback under way, the other site gets what has changed")

    (said, command) = shown(RoleStep.TAKEN_OVER, link=connected)
    assert command.startswith("next: farshore switchover orders (here)")


def test_a_takeover_under_way_says_where_it_goes_back_to() -> None:
    said, command = shown(RoleStep.TAKING_OVER)

    assert (
        said
        == f"orders: takeover: this site goes back to {POINT}, and serves hosts then"
    )
    assert command.startswith("next: farshore takeover orders (here)")


def test_a_failback_says_what_is_kept_and_where_to_look() -> None:
    said, command = shown(RoleStep.FAILING_BACK, role=GroupRole.RECEIVING)
    assert POINT in said
    assert "has not connected yet" in said
    assert command.startswith("next: farshore doctor (at the other site)")

    said, command = shown(
        RoleStep.FAILING_BACK, role=GroupRole.RECEIVING, link=LinkState.CONNECTED
    )
    assert command.startswith("next: farshore status --watch (at the other site)")


def test_a_switchover_has_a_last_cycle_and_then_a_point() -> None:
    begun = RoleChangeStatus(step=RoleStep.HANDING_OVER)
    (said,) = shown(None, role_change=begun, out_of_sync_bytes=3 << 20)
    assert said.endswith("the last cycle goes over, 3.00 MiB of it left")

    said, command = shown(RoleStep.HANDING_OVER)
    assert f"takes over at {POINT}" in said
    assert command.startswith("next: farshore status (at the other site)")


def test_a_step_of_a_newer_daemon_is_named() -> None:
    group = {"name": "orders", "role_change": {"step": "merging"}}

    (line,) = role_change_lines(group)

    assert str(line) == "orders: the sites exchange their roles: merging"
