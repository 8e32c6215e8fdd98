"""Which recovery points stay: rules, a budget, and what to merge next.

Pure. Ages are measured back from the newest point, or from now where that is
earlier: while no point comes none goes, however long the other site is down, and a
clock set forward at one site takes no history away. A rule's periods begin at full
multiples since 1970, and the first point of each is kept: the one that stays the
first whatever comes, so that thinning little by little ends as thinning at once does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.service.retention_rules import RetentionRule

JOURNALS_MAX = 16_384
"""Journals of a group, one a volume and point: bounds memory, and files in a folder."""

MERGED_MAX = 64
"""Points that one merge takes away."""

LIMIT_SHARE = 0.9
"""Of the budget: from there on points go that rules would keep."""

FREED_SHARE = 0.85
"""Down to there."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A point, as far as rules look at it."""

    number: int
    cut_ns: int


def retained(
    rules: Iterable[RetentionRule], points: Sequence[Moment], now_ns: int
) -> set[int]:
    """Return the numbers of the points that stay, of `points`, oldest first.

    The newest is among them whatever the rules.
    """
    if not points:
        return set()
    newest = points[-1]
    now_ns = min(now_ns, newest.cut_ns)
    kept = {newest.number}
    for rule in rules:
        oldest_ns = now_ns - round(rule.duration_seconds * 1e9)
        period_ns = round(rule.period_seconds * 1e9)
        if not period_ns:
            kept.update(p.number for p in points if p.cut_ns >= oldest_ns)
            continue
        before = None
        for point in points:
            period = point.cut_ns // period_ns
            if period != before and point.cut_ns >= oldest_ns:
                kept.add(point.number)
            before = period
    return kept


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point as thinning sees it, the newest and open ones included.

    `is_pinned`: read or kept by an operator; it stays unless the budget ends that.
    `is_settled`: it will stay for longer than the points right before it. `is_fixed`:
    pinned, and not even the budget ends that.
    """

    number: int
    journal_bytes: int
    is_retained: bool
    is_pinned: bool = False
    is_settled: bool = True
    is_fixed: bool = False

    @property
    def stays(self) -> bool:
        return self.is_retained or self.is_pinned


@dataclass(frozen=True, slots=True)
class Drop:
    """Let go of all points before `number`; `ended` are pinned ones among them."""

    number: int
    ended: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge the journals of `victims`, which follow `into`, into its own."""

    into: int
    victims: tuple[int, ...]


Step = Drop | Merge


def next_step(
    points: Sequence[Candidate],
    *,
    limit_bytes: int | None = None,
    points_max: int = JOURNALS_MAX,
    ends_pins: bool = True,
) -> Step | None:
    """Return what to do next to `points`, oldest first, or None.

    Never touches the newest. Whatever is returned, the points that stay keep what
    they show.
    """
    if len(points) < 2:
        return None
    if not points[0].stays:
        return Drop(next(p.number for p in points if p.stays or p is points[-1]))
    used = sum(point.journal_bytes for point in points)
    if len(points) > points_max or (
        limit_bytes is not None and used >= LIMIT_SHARE * limit_bytes
    ):
        excess = max(used - FREED_SHARE * limit_bytes, 1.0) if limit_bytes else 1.0
        step = _over_budget(points, excess, ends_pins=ends_pins)
        if step is not None:
            return step
    return _merge_due(points)


def given_up_for_hosts(points: Sequence[Candidate], *, ends_pins: bool) -> Drop | None:
    """Return what goes first where hosts have no room to overwrite: the oldest point.

    The newest, too, when it is the only one. None where the oldest has to stay, for
    all later journals are needed to read it.
    """
    oldest = points[0]
    if oldest.is_fixed or (oldest.is_pinned and not ends_pins):
        return None
    ended = (oldest.number,) if oldest.is_pinned else ()
    following = points[1].number if len(points) > 1 else oldest.number + 1
    return Drop(following, ended)


def _over_budget(
    points: Sequence[Candidate], excess_bytes: float, *, ends_pins: bool
) -> Step | None:
    """Return what frees room: unpinned points, oldest first, then the oldest pins."""
    older = points[:-1]
    if not older[0].is_pinned:
        freed = 0
        for point, following in zip(older, points[1:], strict=True):
            freed += point.journal_bytes
            if following.is_pinned or freed >= excess_bytes or following is points[-1]:
                return Drop(following.number)
    if not all(point.is_pinned for point in older):
        first = next(i for i, point in enumerate(older) if not point.is_pinned)
        victims: list[int] = []
        freed = 0
        for point in older[first : first + MERGED_MAX]:
            if point.is_pinned or freed >= excess_bytes:
                break
            victims.append(point.number)
            freed += point.journal_bytes
        return Merge(older[first - 1].number, tuple(victims))
    if ends_pins and not points[0].is_fixed:
        return Drop(points[1].number, ended=(points[0].number,))
    return None


def _merge_due(points: Sequence[Candidate]) -> Merge | None:
    """Return a merge of points that nothing keeps, if one is due.

    Not each as it falls due: into a point that grows by every merge, it would be
    written anew for each. Those that wait are merged once they are as large together
    as what they are merged into, so that a byte is written again as often as the
    journal doubles; or once the point behind them will stay, so no more will come.
    """
    into: Candidate | None = None
    victims: list[Candidate] = []
    for point in points:
        if not point.stays and point is not points[-1]:
            victims.append(point)
            continue
        if victims:
            assert into is not None, "the oldest stays here"
            waiting = sum(victim.journal_bytes for victim in victims)
            if (
                point.is_settled
                or waiting >= into.journal_bytes
                or len(victims) > MERGED_MAX
            ):
                numbers = tuple(victim.number for victim in victims[:MERGED_MAX])
                return Merge(into.number, numbers)
        into, victims = point, []
    return None
