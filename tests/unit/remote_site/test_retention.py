"""Which points stay: rules, the budget, and when a merge is worth its writing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.service.retention_rules import RetentionRule, parse_rule
from remote_site.retention import (
    Candidate,
    Drop,
    Merge,
    Moment,
    given_up_for_hosts,
    next_step,
    retained,
)

SECOND = 10**9


def points_at(*seconds: float) -> list[Moment]:
    return [Moment(i, round(at * SECOND)) for i, at in enumerate(seconds, start=1)]


def kept(rules: list[str], points: list[Moment], now: float | None = None) -> list[int]:
    now_ns = points[-1].cut_ns if now is None else round(now * SECOND)
    return sorted(retained([parse_rule(rule) for rule in rules], points, now_ns))


def test_all_are_kept_up_to_their_age_and_one_of_each_period_after_that() -> None:
    points = points_at(*range(0, 400, 10))
    found = kept(["all for 100s", "1 per 60s for 300s"], points)
    old = [1 + at // 10 for at in (120, 180, 240)]
    assert found == [*old, *range(30, 41)]


def test_the_newest_stays_without_any_rule() -> None:
    assert kept([], points_at(1, 2, 3)) == [3]
    assert kept(["all for 1s"], points_at(1, 2000)) == [2]
    assert retained([], [], 0) == set()


def test_while_no_point_comes_none_goes() -> None:
    points = points_at(*range(0, 100, 10))
    rules = ["all for 1m", "1 per 30s for 2m"]
    assert kept(rules, points, now=10**9) == kept(rules, points)


def test_a_clock_set_forward_at_the_primary_takes_no_history_away() -> None:
    points = points_at(*range(0, 100, 10))
    before = kept(["all for 1m"], points)
    wrong = [*points, Moment(11, points[-1].cut_ns + 10**18)]
    assert {*before} <= {*kept(["all for 1m"], wrong, now=90)}


def test_a_clock_set_back_keeps_more_rather_than_less() -> None:
    points = points_at(1000, 1010, 1020, 500, 510)
    assert kept(["all for 15s"], points) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all",
        "2 per 1h for 1d",
        "1 per 1d for 1h",
        "all for 0s",
        "1 per 1h",
        "all for 1y",
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"for|bounds|time"):
        parse_rule(text)


@pytest.mark.parametrize("text", ["all for 1h", "1 per 90s for 7d"])
def test_a_rule_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_rule(text)) == text


rules = st.lists(
    st.builds(
        lambda period, times: RetentionRule(period, max(period, 1) * times),
        st.sampled_from([0.0, 5.0, 7.0, 30.0, 60.0]),
        st.integers(1, 20),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(rules, st.lists(st.floats(0.1, 40), min_size=1, max_size=60), st.randoms())
def test_thinning_little_by_little_keeps_what_was_promised(
    rules: list[RetentionRule], gaps: list[float], rng: random.Random
) -> None:
    """Whatever was thinned when: of each period that a rule still covers the first
    point that ever was is there, and of a rule for all every one."""
    every: list[Moment] = []
    left: list[Moment] = []
    at = 1000.0
    for number, gap in enumerate(gaps, start=1):
        at += gap
        point = Moment(number, round(at * SECOND))
        every.append(point)
        left.append(point)
        if rng.random() < 0.5:
            stay = retained(rules, left, point.cut_ns)
            left = [p for p in left if p.number in stay or rng.random() < 0.2]
        stay = retained(rules, left, point.cut_ns)
        assert point.number in stay
        there = {p.number for p in left}
        for rule in rules:
            oldest = point.cut_ns - round(rule.duration_seconds * SECOND)
            period = round(rule.period_seconds * SECOND)
            seen: set[int] = set()
            for p in every:
                if period and p.cut_ns // period in seen:
                    continue
                if period:
                    seen.add(p.cut_ns // period)
                if p.cut_ns >= oldest:
                    assert p.number in there & stay


# -- what to do next -------------------------------------------------------------------


def candidates(text: str, journal_bytes: int = 10) -> list[Candidate]:
    """One letter a point: r retained, s settled, p pinned, v neither."""
    return [
        Candidate(number, journal_bytes, kind in "rs", kind == "p", kind in "sp")
        for number, kind in enumerate(text, start=1)
    ]


def test_the_oldest_are_dropped_up_to_the_first_that_stays() -> None:
    assert next_step(candidates("vvsvr")) == Drop(3)
    assert next_step(candidates("vvvr")) == Drop(4)
    assert next_step(candidates("r")) is None
    assert next_step([]) is None


def test_points_in_the_middle_wait_until_a_merge_is_worth_it() -> None:
    assert next_step(candidates("rrr")) is None
    big = Candidate(1, 100, is_retained=True, is_settled=True)
    waiting = candidates("rvvr")[1:]
    assert next_step([big, *waiting]) is None
    assert next_step([big, *candidates("rvvsr")[1:]]) == Merge(1, (2, 3))
    assert next_step(candidates("rvr")) == Merge(1, (2,))
    many = [big, *candidates("r" + "v" * 9 + "r")[1:]]
    assert next_step(many) is None
    many = [big, *candidates("r" + "v" * 10 + "r")[1:]]
    assert next_step(many) == Merge(1, tuple(range(2, 12)))


def test_at_nine_tenths_of_the_limit_the_oldest_go_though_rules_keep_them() -> None:
    points = candidates("rrrrrrrrr")  # 90 bytes
    assert next_step(points, limit_bytes=101) is None
    assert next_step(points, limit_bytes=100) == Drop(2)
    assert next_step(points, limit_bytes=70) == Drop(5)
    assert next_step(points, limit_bytes=1) == Drop(9)


def test_pinned_points_go_last_and_only_where_they_may() -> None:
    assert next_step(candidates("prrpr"), limit_bytes=50) == Merge(1, (2,))
    assert next_step(candidates("prrpr"), limit_bytes=30) == Merge(1, (2, 3))
    assert next_step(candidates("rprpr"), limit_bytes=20) == Drop(2)
    assert next_step(candidates("ppr"), limit_bytes=20) == Drop(2, ended=(1,))
    assert next_step(candidates("ppr"), limit_bytes=20, ends_pins=False) is None
    assert next_step(candidates("r"), limit_bytes=1) is None


def test_hosts_without_room_take_the_oldest_point_and_the_last_one_in_the_end() -> None:
    points = [Candidate(n, 10, is_retained=True) for n in (3, 4)]
    assert given_up_for_hosts(points, ends_pins=True) == Drop(4)
    assert given_up_for_hosts(points[1:], ends_pins=True) == Drop(5)
    pinned = [replace(points[0], is_pinned=True), points[1]]
    assert given_up_for_hosts(pinned, ends_pins=True) == Drop(4, ended=(3,))
    assert given_up_for_hosts(pinned, ends_pins=False) is None
    fork = [replace(pinned[0], is_fixed=True), points[1]]
    assert given_up_for_hosts(fork, ends_pins=True) is None


def test_there_are_never_more_than_so_many_points() -> None:
    assert next_step(candidates("rrrr"), points_max=3) == Drop(2)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("rspv"), st.integers(0, 50)), max_size=30),
    st.one_of(st.none(), st.integers(1, 500)),
    st.booleans(),
)
def test_following_the_plan_ends_and_takes_only_what_may_go(
    drawn: list[tuple[str, int]], limit: int | None, ends_pins: bool
) -> None:
    points = [
        Candidate(number, size, kind in "rs", kind == "p", kind in "sp")
        for number, (kind, size) in enumerate(drawn, start=1)
    ]
    everyone = {point.number: point for point in points}
    newest = points[-1].number if points else 0
    while (
        step := next_step(points, limit_bytes=limit, ends_pins=ends_pins)
    ) is not None:
        used = sum(point.journal_bytes for point in points)
        is_over = limit is not None and used >= 0.9 * limit
        numbers = [point.number for point in points]
        if isinstance(step, Drop):
            gone = {number for number in numbers if number < step.number}
            ended = {*step.ended}
        else:
            at = numbers.index(step.into)
            assert numbers[at + 1 : at + 1 + len(step.victims)] == [*step.victims]
            gone, ended = {*step.victims}, set()
        assert gone
        assert newest not in gone
        for number in gone:
            assert is_over or not everyone[number].stays
            if everyone[number].is_pinned:
                assert number in ended
                assert ends_pins
                # No other was left, but the newest.
                assert all(point.is_pinned for point in points[:-1])
        points = [point for point in points if point.number not in gone]
    assert not points or points[-1].number == newest
