"""When the next cycle begins. Pure: times come in as arguments, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from common.service.config_primary import PrimaryGroup
from common.service.schedule import next_moment_ns
from primary_site.autopilot import cut_gap


@dataclass(frozen=True, slots=True)
class Observed:
    """What a decision rests on; `monotonic` times."""

    now: float
    last_cut: float | None
    last_commit: float | None
    changed_bytes: int
    schedule_due: float | None
    """Seconds until the schedule's next moment; None without one."""
    rpo_due: float | None = None
    """Seconds until the autopilot would cut; None without an `rpo`."""


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
    assert seen.rpo_due is not None
    rest = 0.0
    if seen.last_commit is not None:
        rest = cut_gap(group.rpo_seconds) - (seen.now - seen.last_commit)
    return max(0.0, seen.rpo_due, rest)
