"""Rules of retention as people write them: "all for 1h", "1 per 1h for 1d"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.service.units import format_seconds, parse_seconds

RULES_MAX = 16
SECONDS_MIN = 1.0
SECONDS_MAX = 100 * 366 * 86400.0
"""A hundred years: whoever means for ever keeps a point by its number."""

_FORM = re.compile(r"\s*(?:all|1\s+per\s+(\S+))\s+for\s+(\S+)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Keep points up to an age of `duration_seconds`: one of each period, or all.

    `period_seconds` is 0 for all of them.
    """

    period_seconds: float
    duration_seconds: float

    def __str__(self) -> str:
        what = "all"
        if self.period_seconds:
            what = f"1 per {format_seconds(self.period_seconds)}"
        return f"{what} for {format_seconds(self.duration_seconds)}"


def parse_rule(value: object) -> RetentionRule:
    """Return what "1 per 1h for 1d" stands for; raises ValueError with the form."""
    match = _FORM.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f'{value!r} is not a rule of retention: write "all for TIME" or '
            '"1 per TIME for TIME", as in "1 per 1h for 1d"'
        )
    period = 0.0 if match[1] is None else _seconds(match[1])
    duration = _seconds(match[2])
    if period > duration:
        raise ValueError(
            f"{value!r} keeps points for a shorter time than lies between them: "
            "name a longer time behind `for`"
        )
    return RetentionRule(period, duration)


def _seconds(text: str) -> float:
    seconds = parse_seconds(text)
    if not SECONDS_MIN <= seconds <= SECONDS_MAX:
        raise ValueError(
            f"{text} is out of bounds: choose a time from "
            f"{format_seconds(SECONDS_MIN)} to {format_seconds(SECONDS_MAX)}"
        )
    return seconds
