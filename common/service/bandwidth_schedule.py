"""Bandwidth by time of day and day of the week, as people write it.

    "Mon-Fri 08:00-18:00 10MiB/s"
    "Sat,Sun 00:00-24:00 unlimited"
    "* 22:00-06:00 40MiB/s"             over midnight: it began the day before

Pure. Times are UTC, like those of the cut schedule: no change of clocks skips one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from common.service.units import parse_bandwidth, size_bounds

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MINUTES = 24 * 60
ENTRIES_MAX = 64

BANDWIDTH_LOWEST = "8KiB"
"""A frame of the smallest track then takes half a second."""
BANDWIDTH_HIGHEST = "1TiB"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})", re.ASCII)
_REMEDY = 'write days, times in UTC and a rate, as in "Mon-Fri 08:00-18:00 10MiB/s"'


@dataclass(frozen=True, slots=True)
class Entry:
    """`days`: 0 is Monday. Minutes of the day, [first, end); an end that is not later
    lies on the next day. `rate` in bytes a second, None: unlimited."""

    text: str
    days: frozenset[int]
    first_minute: int
    end_minute: int
    rate: int | None

    def holds(self, day: int, minute: int) -> bool:
        """Tell whether this entry holds at a minute of a day."""
        if self.first_minute < self.end_minute:
            return day in self.days and self.first_minute <= minute < self.end_minute
        if minute >= self.first_minute:
            return day in self.days
        return minute < self.end_minute and (day - 1) % len(DAYS) in self.days


def entry_now(entries: Sequence[Entry], now_ns: int) -> Entry | None:
    """Return the first entry that holds now (nanoseconds since 1970, UTC)."""
    now = _EPOCH + timedelta(microseconds=now_ns // 1000)
    minute = now.hour * 60 + now.minute
    for entry in entries:
        if entry.holds(now.weekday(), minute):
            return entry
    return None


def parse_entry(value: object) -> Entry:
    """Read one entry. Raises ValueError with the form to write."""
    if isinstance(value, Entry):
        return value
    parts = value.split() if isinstance(value, str) else []
    if len(parts) != 3:
        raise ValueError(
            f"{value!r} is not an entry of a bandwidth schedule: {_REMEDY}"
        )
    days, times, rate = parts
    first, end = _minutes(times)
    return Entry(" ".join(parts), _days(days), first, end, _rate(rate))


def _days(text: str) -> frozenset[int]:
    if text == "*":
        return frozenset(range(len(DAYS)))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(
                f"{text!r} are not days: write them as Mon-Fri, as Sat,Sun or as *"
            )
        start = DAYS.index(first)
        count = (DAYS.index(last) - start) % len(DAYS) if dash else 0
        found.update((start + step) % len(DAYS) for step in range(count + 1))
    return frozenset(found)


def _minutes(text: str) -> tuple[int, int]:
    match = _TIMES.fullmatch(text)
    hours_and_minutes = [int(part) for part in match.groups()] if match else [99] * 4
    first = hours_and_minutes[0] * 60 + hours_and_minutes[1]
    end = hours_and_minutes[2] * 60 + hours_and_minutes[3]
    is_valid = max(hours_and_minutes[1], hours_and_minutes[3]) < 60
    if not is_valid or first >= DAY_MINUTES or end > DAY_MINUTES or first == end:
        raise ValueError(
            f"{text!r} is not a time of day: write HH:MM-HH:MM in UTC, from 00:00 to "
            "24:00"
        )
    return first, end


def _rate(text: str) -> int | None:
    if text == "unlimited":
        return None
    rate = parse_bandwidth(text)
    size_bounds(BANDWIDTH_LOWEST, BANDWIDTH_HIGHEST).check(rate)
    return rate


ScheduleEntry = Annotated[
    Entry,
    PlainValidator(parse_entry),
    PlainSerializer(lambda entry: entry.text, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "x-kind": "bandwidth schedule entry",
            "examples": ["Mon-Fri 08:00-18:00 10MiB/s"],
        }
    ),
]
