"""The autopilot over hours of simulated time: few cuts, ages below the target."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from primary_site.autopilot import (
    BreachWatch,
    Outlook,
    Promise,
    Sight,
    UnderWay,
    foresee,
    seconds_to_cut,
)
from primary_site.drain_rates import DrainRates
from tests.support.rpo_model import Model, bearable_share, fewest_cuts

HOUR = 3600.0
MB = 1e6
TARGET = 5.0
SETTLED = 60.0
"""By then a model has seen enough cycles to know its link."""


def test_an_idle_group_is_never_cut_and_stays_current_at_the_least_cost() -> None:
    ran = Model(TARGET, lambda _: 0.0, lambda _: 10 * MB).run(HOUR)
    assert not ran.cuts
    assert HOUR / TARGET <= ran.empty <= HOUR / TARGET * 1.15
    assert not ran.changes


@pytest.mark.parametrize(
    ("share", "noise"),
    [(0.01, 0.0), (0.1, 0.2), (0.4, 0.0), (0.4, 0.2), (0.7, 0.2), (0.85, 0.0)],
)
def test_a_steady_load_is_cut_about_as_seldom_as_can_be(
    share: float, noise: float
) -> None:
    model = Model(TARGET, lambda _: share * 10 * MB, lambda _: 10 * MB, noise=noise)
    ran = model.run(HOUR / 4)
    assert ran.oldest(SETTLED) <= TARGET
    longest = (TARGET - model.overhead) / (1 + share)
    """Any longer between two cuts, and the commit comes too late."""
    slack = 1.1 if not noise else 1.25
    assert len(ran.cuts) <= HOUR / 4 / longest * slack
    assert ran.changes == []


def test_intervals_between_cuts_of_a_steady_load_do_not_swing() -> None:
    for share in (0.1, 0.5, 0.8):
        model = Model(TARGET, lambda _, s=share: s * 10 * MB, lambda _: 10 * MB)
        found = model.run(HOUR / 6).intervals(SETTLED, HOUR)
        assert statistics.pstdev(found) < 0.03 * statistics.mean(found)


@pytest.mark.parametrize(
    ("rate", "length", "every"),
    [(20.0, 1.0, 30.0), (30.0, 0.5, 7.0), (8.0, 20.0, 60.0)],
)
def test_bursts_stay_below_the_target_and_near_the_fewest_cuts(
    rate: float, length: float, every: float
) -> None:
    def load(now: float) -> float:
        return rate * MB if now % every < length else 0.0

    ran = Model(TARGET, load, lambda _: 10 * MB).run(HOUR / 4)
    assert ran.oldest(SETTLED) <= TARGET
    assert ran.changes == []
    # One that knows all bursts to come; ours keeps room for them while hosts are idle.
    fewest = fewest_cuts(TARGET, load, lambda _: 10 * MB, 0.05, 120, 0.1)
    fewest = round(fewest * HOUR / 4 / 120)
    assert len(ran.cuts) <= fewest
    assert len(ran.cuts) + ran.empty <= fewest * 1.7


def test_overwrites_of_a_hot_set_share_cycles() -> None:
    """Hosts rewrite 8 MB at four times the link's rate: cut often, it never fits."""
    model = Model(TARGET, lambda _: 40 * MB, lambda _: 10 * MB, hot_bytes=8 * MB)
    assert model.run(HOUR / 4).oldest(SETTLED) <= TARGET


def test_a_link_that_falls_to_a_tenth_is_met_and_its_return_too() -> None:
    """Feasible all the time but for the cycle that the fall surprises."""

    def link(now: float) -> float:
        return 1 * MB if 1000 <= now < 2000 else 10 * MB

    ran = Model(TARGET, lambda _: 0.4 * MB, link).run(HOUR)
    assert ran.oldest(SETTLED, 1000) <= TARGET
    assert ran.oldest(1010, 2000) <= TARGET
    assert ran.oldest(2000) <= TARGET
    slow = (TARGET - 0.05) / 1.4
    assert ran.cuts_within(1010, 2000) <= 990 / slow * 1.25
    fast = (TARGET - 0.05) / 1.04
    assert ran.cuts_within(2030, HOUR) <= (HOUR - 2030) / fast * 1.2
    assert [c for c in ran.changes if c[0] < 1000 or c[0] > 2030] == []


def test_a_link_too_slow_is_forecast_before_the_breach_and_told_once() -> None:
    def link(now: float) -> float:
        return 1 * MB if 1000 <= now < 1300 else 10 * MB

    ran = Model(TARGET, lambda _: 3 * MB, link).run(HOUR / 2)
    states = [state for _, state in ran.changes]
    assert states == [Promise.IN_DANGER, Promise.BREACHED, Promise.KEPT]
    foreseen, breached, kept = (at for at, _ in ran.changes)
    assert 1000 <= foreseen < breached
    assert breached < 1000 + 2.5 * TARGET
    assert 1300 < kept < 1420
    assert ran.oldest(since=kept) <= TARGET


@pytest.mark.parametrize("share", [0.3, 0.05])
@pytest.mark.parametrize("phase", range(8))
def test_a_sudden_fall_is_forecast_unless_little_was_left_when_it_came(
    phase: int, share: float
) -> None:
    """Of a link that cycles use most of the time. One that falls between two cycles
    shows only when the next one uses it."""
    fell = 200 + phase * TARGET / 7.3

    def link(now: float) -> float:
        return (share if now >= fell else 1.0) * 10 * MB

    ran = Model(TARGET, lambda _: 4 * MB, link).run(fell + 6 * TARGET)
    told = {state: at for at, state in reversed(ran.changes) if at >= fell}
    breached = told[Promise.BREACHED]
    if breached - fell > TARGET / 4:
        assert fell <= told[Promise.IN_DANGER] < breached


@pytest.mark.parametrize("share", [0.1, 0.02])
@pytest.mark.parametrize("phase", range(8))
def test_a_fall_between_two_cycles_is_forecast_by_the_one_that_meets_it(
    phase: int, share: float
) -> None:
    """That one was cut so late that the margin is nearly all it has."""
    fell = 200 + phase * TARGET / 7.3

    def link(now: float) -> float:
        return (share if now >= fell else 1.0) * 5 * MB

    ran = Model(TARGET, lambda _: 0.25 * MB, link).run(fell + 6 * TARGET)
    assert [at for at, _ in ran.changes if at < fell] == []
    told = {state: at for at, state in reversed(ran.changes)}
    assert fell <= told[Promise.IN_DANGER] < told[Promise.BREACHED]


def test_a_load_that_grows_beyond_the_link_is_forecast_before_the_breach() -> None:
    def load(now: float) -> float:
        return 15 * MB if 600 <= now < 660 else 1 * MB

    ran = Model(TARGET, load, lambda _: 10 * MB).run(1200)
    states = [state for _, state in ran.changes]
    assert states == [Promise.IN_DANGER, Promise.BREACHED, Promise.KEPT]
    assert ran.changes[1][0] - ran.changes[0][0] >= 1.0, "time to do something"


PREDICTED_WORSE = 0.4
"""Of the noise, in targets: how late a cycle may be that is slow after quick ones.

The margin is of three deviations as they were seen, so a run of quick cycles narrows
it. Estimated, not derived: a drain within what is bearable takes 0.45 of a target at
most, and what is foretold of it is wrong by twice the noise at worst. The search has
found 0.004 targets at a noise of 0.15, where this allows 0.06.
"""


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([0.5, 1.0, 5.0, 60.0]),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.05, 6)), min_size=1, max_size=8),
    st.floats(0, 0.15),
    st.integers(0, 99),
)
# Small cycles after large ones: all they take was once put down to their bytes, and
# room for another burst at that rate had the group cut as often as it could.
@example(60.0, [(0.93, 2.387), (0.735, 3.967), (0.007, 5.0), (0.161, 3.236)], 0.0, 0)
# As much as can be borne where cycles differ: once asked for more than anyone keeps.
@example(0.5, [(1.0, 1.0)], 0.125, 0)
# Cycles a few parts in a thousand late: slow ones after quick ones.
@example(5.0, [(1.0, 0.9890929735920205), (0.631364, 0.7289819922428813)], 0.15, 49)
def test_whatever_hosts_do_within_the_links_means_the_target_is_kept(
    target: float, phases: list[tuple[float, float]], noise: float, seed: int
) -> None:
    """Loads of so much of what is bearable, in phases of so many targets."""
    overhead = target / 50
    most = min(bearable_share(target, overhead, noise), 0.75)
    lengths = [length * target for _, length in phases]

    def load(now: float) -> float:
        now %= sum(lengths)
        for (part, _), length in zip(phases, lengths, strict=True):
            if now < length:
                return part * most * 10 * MB
            now -= length
        return 0.0

    model = Model(
        target,
        load,
        lambda _: 10 * MB,
        overhead=overhead,
        noise=noise,
        seed=seed,
        forecasts=False,
    )
    ran = model.run(120 * target)
    settled = [age for at, age in ran.ages if at > 20 * target]
    assert all(age <= target * (1 + PREDICTED_WORSE * noise) for age in settled)
    assert len(ran.cuts) + ran.empty <= 120 * 2.7


NO_TIME = 1e-6
"""Seconds: the spread, looked at twice, leaves some tens of nanoseconds either way."""


@given(st.floats(0, 1e9), st.floats(0, 1e8), st.floats(0, 100))
def test_a_cut_is_due_no_later_with_more_changed_or_an_older_point(
    changed: float, growth: float, age: float
) -> None:
    rates = DrainRates()
    sight = Sight(1000.0, 1000.0 - age, int(changed), growth)
    wait = seconds_to_cut(TARGET, sight, rates)
    more = Sight(1000.0, 1000.0 - age, int(changed * 1.5), growth)
    older = Sight(1000.0, 999.0 - age, int(changed), growth)
    assert 0 <= seconds_to_cut(TARGET, more, rates) <= wait + NO_TIME
    assert 0 <= seconds_to_cut(TARGET, older, rates) <= wait + NO_TIME


def test_a_paced_link_counts_before_any_cycle_has_met_it() -> None:
    rates = DrainRates()
    for _ in range(20):
        rates.observe(50_000_000, 50_000_000, 0.55)
    sight = Sight(10.0, 9.0, 20_000_000)
    paced = Sight(10.0, 9.0, 20_000_000, paced=5e6)
    assert seconds_to_cut(TARGET, sight, rates) > 2
    assert seconds_to_cut(TARGET, paced, rates) < 0.2
    assert foresee(1.0, paced, rates).seconds_until_breach is not None


def test_a_drain_that_stands_still_is_foreseen_while_it_stands() -> None:
    rates = DrainRates()
    for _ in range(20):
        rates.observe(10_000_000, 10_000_000, 1.05)
    going = UnderWay(100.0, 10e6, 5e6, 10e6)
    stuck = UnderWay(100.0, 10e6, 5e6, 1e6)
    well = foresee(TARGET, Sight(100.5, 97.0, 0, cut=going), rates)
    assert well.seconds_until_breach is None
    assert well.expected_age < TARGET
    outlook = foresee(TARGET, Sight(100.5, 97.0, 0, cut=stuck), rates)
    assert outlook.seconds_until_breach == pytest.approx(1.5)
    assert outlook.expected_age > 8


def test_a_short_doubt_is_not_announced_and_an_old_point_at_once() -> None:
    watch, danger = BreachWatch(TARGET), Outlook(9.0, 2.0)
    well = Outlook(4.0, None)
    assert not watch.look(0.0, 3.0, danger)
    assert not watch.look(0.2, 3.2, well)
    assert not watch.look(0.4, 3.4, danger)
    assert watch.look(0.7, 3.7, danger)
    assert watch.state is Promise.IN_DANGER
    assert watch.look(2.1, 5.1, danger)
    assert watch.state is Promise.BREACHED
    assert not watch.look(3.0, 1.0, well)
    assert not watch.look(7.0, 3.0, well)
    assert watch.look(7.2, 3.0, well)
    assert watch.state is Promise.KEPT
