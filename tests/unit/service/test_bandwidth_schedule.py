"""Bandwidth by day and time: which entry holds when, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from common.service.bandwidth_schedule import entry_now, parse_entry

MONDAY = "2024-01-01"  # and the days after it, up to Sunday the 7th


def rate_at(texts: list[str], moment: str) -> object:
    when = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    now_ns = int(when.timestamp()) * 10**9
    entry = entry_now([parse_entry(text) for text in texts], now_ns)
    return None if entry is None else entry.rate or "unlimited"


@pytest.mark.parametrize(
    ("text", "moment", "holds"),
    [
        ("Mon-Fri 08:00-18:00 1KiB/s", "2024-01-01T07:59:59", False),
        ("Mon-Fri 08:00-18:00 1KiB/s", "2024-01-01T08:00:00", True),
        ("Mon-Fri 08:00-18:00 1KiB/s", "2024-01-05T17:59:59", True),
        ("Mon-Fri 08:00-18:00 1KiB/s", "2024-01-05T18:00:00", False),
        ("Mon-Fri 08:00-18:00 1KiB/s", "2024-01-06T12:00:00", False),
        ("Sat,Sun 00:00-24:00 1KiB/s", "2024-01-07T23:59:59", True),
        ("Sat,Sun 00:00-24:00 1KiB/s", "2024-01-08T00:00:00", False),
        ("Fri-Mon 00:00-24:00 1KiB/s", "2024-01-01T00:00:00", True),
        ("Fri-Mon 00:00-24:00 1KiB/s", "2024-01-02T00:00:00", False),
        ("Tue 22:00-06:00 1KiB/s", "2024-01-02T21:59:59", False),
        ("Tue 22:00-06:00 1KiB/s", "2024-01-02T22:00:00", True),
        ("Tue 22:00-06:00 1KiB/s", "2024-01-03T05:59:59", True),
        ("Tue 22:00-06:00 1KiB/s", "2024-01-02T05:59:59", False),
        ("Sun 22:00-06:00 1KiB/s", "2024-01-01T01:00:00", True),
        ("* 00:00-00:01 1KiB/s", "2024-01-03T00:00:59", True),
        ("* 00:00-00:01 1KiB/s", "2024-01-03T00:01:00", False),
    ],
)
def test_an_entry_holds_from_its_first_minute_to_its_last(
    text: str, moment: str, holds: bool
) -> None:
    text = text.replace("1KiB/s", "64KiB/s")
    assert rate_at([text], moment) == (65536 if holds else None)


def test_the_first_entry_that_holds_counts() -> None:
    entries = ["* 12:00-13:00 unlimited", "Mon-Fri 08:00-18:00 1MiB/s"]
    assert rate_at(entries, f"{MONDAY}T12:30:00") == "unlimited"
    assert rate_at(entries, f"{MONDAY}T13:00:00") == 1 << 20
    assert rate_at(entries, f"{MONDAY}T19:00:00") is None
    assert rate_at([], f"{MONDAY}T12:30:00") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "08:00-18:00 1MiB/s",
        "Mon 08:00-18:00",
        "Mon 8:00-18:00 1MiB/s",
        "Mon 08:00-08:00 1MiB/s",
        "Mon 08:60-09:00 1MiB/s",
        "Mon 24:00-06:00 1MiB/s",
        "Mon 00:00-24:01 1MiB/s",
        "Mon- 08:00-18:00 1MiB/s",
        "mon 08:00-18:00 1MiB/s",
        "Mon,,Tue 08:00-18:00 1MiB/s",
        "Mon 08:00-18:00 1MB/s",
        "Mon 08:00-18:00 0B/s",
        "Mon 08:00-18:00 fast",
        "Mon 08:00-18:00 1MiB/s UTC",
    ],
)
def test_what_is_not_an_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|choose"):
        parse_entry(text)


def test_an_entry_is_told_as_it_was_written() -> None:
    entry = parse_entry("Mon-Fri  08:00-18:00   10MiB/s")
    assert entry.text == "Mon-Fri 08:00-18:00 10MiB/s"
    assert parse_entry(entry.text) == entry
    with pytest.raises(ValueError, match="write"):
        parse_entry(5)
