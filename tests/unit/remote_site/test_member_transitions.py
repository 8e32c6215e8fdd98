"""What a group's state says of its volumes, as they come, leave and grow. Pure."""

from __future__ import annotations

from dataclasses import replace

from remote_site.member_transitions import with_joined, with_members, without_volumes
from remote_site.membership import ALWAYS, Change, Membership
from remote_site.store_state import Point, StoreState
from tests.support.remote_store_group import DATA, LOG

LATER = replace(LOG, name="later", volume_id=b"n" * 16)
LARGER = DATA.size_bytes * 2
COMES = Change(("later",), (), ())
LEAVES = Change((), ("log",), ())
DEVICES = {"data": "/devices/data.img", "log": "/devices/log.img"}


def bound() -> StoreState:
    ids = b"g" * 16, b"l" * 16
    return StoreState(
        "orders", *ids, "amsterdam", 1, b"r" * 16, (DATA, LOG), (True, False)
    )


def with_points(state: StoreState, *numbers: int) -> StoreState:
    for number in numbers:
        name = bytes([number]) * 16
        state = state.with_point(Point(number, name, number, number, None), name)
    return state


def grown() -> StoreState:
    """Point 1 is of before a volume grew, point 2 of after it."""
    state = with_points(bound(), 1).will_grow(0, LARGER).grown(0, LARGER)
    return with_points(state, 2)


def test_a_volume_that_comes_leaves_what_is_known_of_the_others() -> None:
    growing = grown().will_grow(1, LOG.size_bytes * 2)
    state = with_members(growing, COMES, [LATER], [True], DEVICES)
    assert state.volumes == (*growing.volumes, LATER)
    assert state.created == (True, False, True)
    assert state.growing == (0, LOG.size_bytes * 2, 0), "a device may be longer"
    assert state.memberships == (ALWAYS, ALWAYS, Membership(None))
    first, second = state.points
    assert state.size_at(first, 0) == DATA.size_bytes
    assert state.size_at(second, 0) == LARGER
    assert [state.size_at(first, index) for index in (1, 2)] == [
        LOG.size_bytes,
        LATER.size_bytes,
    ]
    assert with_members(grown(), COMES, [LATER], [True], DEVICES).growing == ()


def test_a_volume_that_goes_takes_what_is_known_of_it_and_no_more() -> None:
    growing = grown().will_grow(1, LOG.size_bytes * 2)
    state = without_volumes(growing, ["data"])
    assert state.volumes == (LOG,)
    assert state.created == (False,)
    assert state.growing == (LOG.size_bytes * 2,)
    assert state.memberships == (ALWAYS,)
    assert [state.size_at(point, 0) for point in state.points] == [LOG.size_bytes] * 2
    state = without_volumes(grown(), ["log"])
    assert state.size_at(state.points[0], 0) == DATA.size_bytes
    assert state.growing == ()


def test_a_volume_that_leaves_is_in_every_point_up_to_the_newest() -> None:
    state = with_members(with_points(bound(), 3, 7), LEAVES, [], [], DEVICES)
    assert state.memberships == (ALWAYS, Membership(0, 7, DEVICES["log"]))
    assert [state.has(number, 1) for number in (3, 7, 8)] == [True, True, False]
    assert state.current == (DATA,)


def test_a_volume_whose_points_are_the_oldest_ones_is_in_every_point() -> None:
    """Earlier releases can read such a record: it says nothing of volumes."""
    state = with_points(bound(), 3)
    state = with_members(state, COMES, [LATER], [True], DEVICES)
    joined = with_points(with_joined(state, 4, frozenset({2})), 4)
    assert joined.memberships[2] == Membership(4)
    assert without_volumes(joined, []).memberships[2] == Membership(4)
    assert without_volumes(joined.since(4), []).members == ()


def test_only_whose_first_copy_is_complete_joins() -> None:
    state = with_members(with_points(bound(), 3), COMES, [LATER], [True], DEVICES)
    assert with_joined(state, 4, frozenset()) is state
    assert with_joined(state, 4, frozenset({0})) is state
    assert without_volumes(state, []).memberships[2].is_joining
