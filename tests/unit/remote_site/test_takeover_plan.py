"""Which point to go on from, and what an operator is told is lost by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import RefusedError
from common.replication.lineage import CycleName, Fork
from remote_site.membership import ALWAYS, Membership
from remote_site.store_state import Divided, Point, StoreState, Takeover
from remote_site.takeover_plan import (
    Situation,
    check_may_begin,
    chosen_point,
    losses,
)
from tests.support.remote_store_group import OFFERS

SECOND_NS = 1_000_000_000
POINTS = tuple(
    Point(number, bytes([number]) * 16, number * SECOND_NS, number * SECOND_NS, None)
    for number in (3, 5, 8)
)
STATE = StoreState(
    group="orders",
    group_id=b"g" * 16,
    lineage=b"L" * 16,
    peer="amsterdam",
    epoch=4,
    relation_id=b"8" * 16,
    volumes=OFFERS,
    created=(True, True),
    points=POINTS,
    relations=(b"3" * 16, b"5" * 16, b"8" * 16),
)
ALONE = Situation(
    "orders", is_connected=False, cycle_under_way=9, now_ns=68 * SECOND_NS
)
WELL = replace(ALONE, is_connected=True)
TAKEN = replace(
    STATE,
    takeover=Takeover(Fork(b"N" * 16, b"L" * 16, CycleName(5, bytes([5]) * 16), 5, 9)),
)


def test_the_newest_point_is_chosen_unless_another_one_is_named() -> None:
    assert chosen_point("orders", POINTS, None).number == 8
    assert chosen_point("orders", POINTS, 3).number == 3
    with pytest.raises(RefusedError, match="keeps no point 4: it has 3, 5, 8"):
        chosen_point("orders", POINTS, 4)


def test_without_any_point_there_is_nothing_to_go_on_from() -> None:
    for state in (None, replace(STATE, points=(), relations=())):
        with pytest.raises(RefusedError, match="no recovery point yet"):
            check_may_begin(ALONE, state, None, force=True)


def test_a_sender_that_is_well_is_taken_over_by_force_only() -> None:
    check_may_begin(ALONE, STATE, None, force=False)
    check_may_begin(WELL, STATE, None, force=True)
    with pytest.raises(RefusedError) as refused:
        check_may_begin(WELL, STATE, None, force=False)
    for told in ("connected and well", "point 8", "60 s old", "--force"):
        assert told in str(refused.value)


def test_a_point_of_before_a_volume_came_is_refused_before_anything_ends() -> None:
    joined = replace(STATE, members=(ALWAYS, Membership(5)))
    with pytest.raises(RefusedError, match="of before volume log was added"):
        check_may_begin(ALONE, joined, 3, force=True)
    for number in (5, 8, None):
        check_may_begin(ALONE, joined, number, force=False)


def test_what_is_lost_is_said() -> None:
    found = losses(ALONE, POINTS, 5)
    assert (found.age_seconds, found.newer_points) == (63.0, (8,))
    told = " ".join(found.sentences("orders"))
    for word in ("point 5", "63 s", "cycle 9", "newer points (8)", "superseded"):
        assert word in told
    newest = " ".join(losses(ALONE, POINTS, None).sentences("orders"))
    assert "newer points" not in newest
    quiet = losses(replace(ALONE, cycle_under_way=None), POINTS, None)
    assert "cycle" not in " ".join(quiet.sentences("orders"))


def test_what_a_site_gave_up_is_gone_on_from_by_force_only() -> None:
    divided = replace(STATE, divided=Divided(8, None))
    with pytest.raises(RefusedError, match=r"wait .* or say --force .* point 8"):
        check_may_begin(ALONE, divided, None, force=False)
    check_may_begin(ALONE, divided, None, force=True)
    check_may_begin(ALONE, replace(STATE, divided=Divided(5, None)), None, force=False)
    gave_up = replace(ALONE, own_up_to=5)
    assert "gave up" in " ".join(losses(gave_up, POINTS, 5).sentences("orders"))
    assert "gave up" not in " ".join(losses(gave_up, POINTS, 8).sentences("orders"))


@pytest.mark.parametrize(
    ("seconds", "told"), [(119, "119 s"), (600, "10 min"), (7300, "2 h")]
)
def test_ages_are_told_as_people_do(seconds: int, told: str) -> None:
    late = replace(ALONE, now_ns=(8 + seconds) * SECOND_NS)
    assert told in losses(late, POINTS, None).sentences("orders")[0]


def test_a_takeover_that_was_decided_is_asked_for_again_but_not_changed() -> None:
    for number in (None, 5):
        check_may_begin(WELL, TAKEN, number, force=False)
    with pytest.raises(RefusedError, match="taken over already, from point 5"):
        check_may_begin(ALONE, TAKEN, 8, force=True)
