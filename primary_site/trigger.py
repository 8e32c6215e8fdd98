"""When the next cycle begins. Pure: times come in as arguments, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from common.service.config_primary import PrimaryGroup
from common.service.schedule import next_moment_ns

RPO_SHARE = 0.35
"""A point is at its oldest just before the next commit: one interval and one
drain after its cut. Cutting after this share of the target, less half the last
drain, keeps the sum below it while a drain takes less than half the target."""

CUT_GAP_SECONDS_MIN = 0.1
"""Between a commit and the next cut: even a slow link leaves hosts this rest."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a decision rests on; `monotonic` times."""

    now: float
    last_cut: float | None
    last_commit: float | None
    last_drain_seconds: float
    changed_bytes: int
    schedule_due: float | None
    """Seconds until the schedule's next moment; None without one."""


NEVER = float("inf")


class Schedule:
    """The moments of a cron expression, each due exactly once."""

    def __init__(self, expression: str | None) -> None:
        self._expression = expression
        self._due_ns: int | None = None

    def seconds_until_due(self, now_ns: int) -> float | None:
        """Return the seconds until the next moment, 0 once it has come.

        Moments that passed while nobody asked (a long drain, a lost link) are due
        together, once.
        """
        if self._expression is None:
            return None
        if self._due_ns is None:
            self._due_ns = next_moment_ns(self._expression, now_ns)
        if now_ns >= self._due_ns:
            self._due_ns = None
            return 0.0
        return (self._due_ns - now_ns) / 1e9


def seconds_to_cut(group: PrimaryGroup, seen: Observed) -> float:
    """Return the seconds until a cut is due, 0 if it is due now.

    The first cut after a start is due at once, but for `manual` and `schedule`.
    """
    if group.manual:
        return NEVER
    if group.schedule is not None:
        assert seen.schedule_due is not None
        return max(0.0, seen.schedule_due)
    if seen.last_cut is None:
        return 0.0
    since = seen.now - seen.last_cut
    if group.interval_seconds is not None:
        return max(0.0, group.interval_seconds - since)
    if group.changed_bytes is not None:
        return 0.0 if seen.changed_bytes >= group.changed_bytes else NEVER
    assert group.rpo_seconds is not None
    wanted = group.rpo_seconds * RPO_SHARE - seen.last_drain_seconds / 2
    rest = 0.0
    if seen.last_commit is not None:
        gap = min(CUT_GAP_SECONDS_MIN, group.rpo_seconds / 10)
        rest = gap - (seen.now - seen.last_commit)
    return max(0.0, wanted - since, rest)
