"""From when on a target is promised, and what is said before its first point is there.

Pure: the keeper of a target, told what happens and when.
"""

from __future__ import annotations

import pytest

from primary_site.autopilot import Promise
from primary_site.drain_waits import Cause, DrainWaits, Stage
from primary_site.rpo_keeper import Draining, Forecast, RpoKeeper, keeper_for

TARGET = 5.0
HOUR = 3600.0
SECOND = 50_000_000
"""Bytes of a cycle that is expected to take about one second."""

SLOW_LINK = DrainWaits({Stage.LINK: 3.0})


def look(
    keeper: RpoKeeper,
    now: float,
    *,
    changed: int = 0,
    draining: int | None = None,
    waited: DrainWaits | None = None,
    is_linked: bool = True,
) -> Forecast:
    """Look in; `draining`: bytes of a cycle that was cut now, none of it delivered,
    which has `waited` so long."""
    under_way = None
    if draining is not None:
        under_way = Draining(now, draining, 0.0, waited or DrainWaits())
    keeper.look(now, changed, under_way, is_linked=is_linked)
    assert keeper.forecast is not None
    return keeper.forecast


def begun_anew(*, as_of: float) -> RpoKeeper:
    """Return the keeper of a site that has just become the sender."""
    keeper = RpoKeeper(TARGET)
    keeper.forget()
    keeper.as_of = as_of
    return keeper


def test_a_sender_that_just_began_has_broken_nothing_with_a_point_of_before() -> None:
    keeper = begun_anew(as_of=-HOUR)
    told = look(keeper, 0.0)
    assert told.promise is Promise.KEPT
    assert told.age_seconds == HOUR, "told as it is"
    assert told.cause is None
    assert look(keeper, 1.0, draining=SECOND).promise is Promise.KEPT
    keeper.as_of = 1.0
    assert look(keeper, 2.0).promise is Promise.KEPT


def test_a_target_later_it_is_broken() -> None:
    keeper = begun_anew(as_of=-HOUR)
    look(keeper, 0.0)
    assert look(keeper, TARGET).promise is not Promise.BREACHED
    told = look(keeper, TARGET + 0.1, draining=SECOND)
    assert told.promise is Promise.BREACHED
    assert told.cause is Cause.JUST_BEGUN, "there is nothing else to tell"
    assert "is older than rpo 5 s" in told.text
    told = look(keeper, TARGET + 0.2, draining=SECOND, waited=SLOW_LINK)
    assert told.cause is Cause.LINK


def test_a_first_cycle_that_takes_too_long_is_foreseen() -> None:
    keeper = begun_anew(as_of=-HOUR)
    look(keeper, 0.0, draining=100 * SECOND)
    keeper.look(
        1.0, 0, Draining(0.0, 100 * SECOND, SECOND, DrainWaits()), is_linked=True
    )
    told = keeper.forecast
    assert told is not None
    assert told.promise is Promise.IN_DANGER
    assert told.cause is Cause.JUST_BEGUN
    assert told.text.startswith("within 4.0 s no point is expected that is younger")
    assert "cycles go on only since 1.0 s ago" in told.text
    assert told.expected_age_seconds > HOUR


def test_a_promise_that_stood_before_a_restart_is_broken_by_it_and_says_why() -> None:
    keeper = RpoKeeper(TARGET)
    keeper.forget()
    keeper.promise_stands()
    keeper.as_of = -HOUR
    told = look(keeper, 0.0)
    assert (told.promise, told.cause) == (Promise.BREACHED, Cause.JUST_BEGUN)
    assert "cycles go on only since 0.0 s ago" in told.text


def test_a_link_that_returns_is_what_the_point_is_too_old_for_not_hosts() -> None:
    keeper = begun_anew(as_of=0.0)
    look(keeper, 0.0)
    assert look(keeper, 4.0, is_linked=False).promise is Promise.KEPT
    away = look(keeper, 9.0, is_linked=False)
    assert (away.promise, away.cause) == (Promise.BREACHED, Cause.LINK_DOWN)
    back = look(keeper, 10.0, draining=SECOND)
    assert (back.promise, back.cause) == (Promise.BREACHED, Cause.JUST_BEGUN)
    later = look(keeper, 10.0 + TARGET + 0.1, draining=SECOND, waited=SLOW_LINK)
    assert later.cause is Cause.LINK


def test_what_was_suspended_is_promised_anew() -> None:
    keeper = begun_anew(as_of=0.0)
    look(keeper, 0.0)
    assert look(keeper, TARGET + 0.1).promise is Promise.BREACHED
    assert keeper.forget(), "it ends with the promise"
    assert keeper.forecast is None
    assert look(keeper, HOUR).promise is Promise.KEPT
    assert look(keeper, HOUR + TARGET + 0.1).promise is Promise.BREACHED


@pytest.mark.parametrize("target", [0.5, TARGET, 60.0])
def test_the_end_of_a_long_first_copy_is_no_breach(target: float) -> None:
    keeper = RpoKeeper(target)
    keeper.forget()  # no point yet
    keeper.as_of = -HOUR  # its cut was when it began
    assert look(keeper, 0.0).promise is Promise.KEPT


# -- another target --------------------------------------------------------------------


def test_another_target_is_kept_with_what_was_learnt() -> None:
    before = begun_anew(as_of=0.0)
    for _ in range(8):
        before.cycle_ended(SECOND, SECOND, 4.0, DrainWaits())
    after = keeper_for(60.0, before)
    assert after is not None
    assert after.target == 60.0
    assert after.as_of == before.as_of
    assert after.rates is before.rates
    assert keeper_for(60.0, after) is after, "nothing new, nothing lost"


def test_a_target_that_is_broken_already_has_a_cut_made_at_once() -> None:
    before = keeper_for(HOUR, None)
    assert before is not None
    before.as_of = 0.0
    assert before.seconds_to_cut(60.0, SECOND) > HOUR / 2
    after = keeper_for(TARGET, before)
    assert after is not None
    assert after.seconds_to_cut(60.0, SECOND) == 0
    assert look(after, 60.0, changed=SECOND).promise is Promise.KEPT, "just promised"
    assert look(after, 66.0, changed=SECOND).promise is Promise.BREACHED


def test_without_an_rpo_nothing_is_kept() -> None:
    assert keeper_for(None, RpoKeeper(TARGET)) is None
