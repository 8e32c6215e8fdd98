from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.service.moments import rfc3339
from common.service.schedule import next_moment_ns, parse_schedule
from common.service.units import (
    format_bandwidth,
    format_seconds,
    format_size,
    parse_bandwidth,
    parse_seconds,
    parse_size,
)

SECOND_NS = 1_000_000_000


@given(st.integers(0, 1 << 50))
def test_a_size_is_read_as_it_was_written(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes
    assert parse_bandwidth(format_bandwidth(size_bytes)) == size_bytes


@given(st.integers(0, 10**10))
def test_a_time_is_read_as_it_was_written(microseconds: int) -> None:
    seconds = microseconds / 1e6

    assert parse_seconds(format_seconds(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0B", 0), ("64KiB", 65536), ("1.5GiB", 1536 << 20), ("0.5KiB", 512)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("5s", 5), ("10m", 600), ("1d", 86400)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    "value",
    [
        *("", "5", "5 KiB", "KiB", "-1KiB", "1e3B", "1KB", "1kib", "٣KiB", "1KiB/s"),
        *("1" * 19 + "B", "1.B", ".5KiB", "0.3B", 5, None, [], True),
    ],
)
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="write a string of a number and a unit"):
        parse_size(value)


@pytest.mark.parametrize("value", ["5", "5 s", "5min", "-5s", "5S", "inf", 5, 5.0])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a time: write"):
        parse_seconds(value)


@pytest.mark.parametrize("value", ["40MiB", "40MB/s", "/s", "40MiB/h", 40])
def test_what_is_no_bandwidth_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"as in .40MiB/s"):
        parse_bandwidth(value)


def test_moments_are_rfc_3339_in_utc_to_the_microsecond() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert rfc3339(1_772_366_400_123_456_999) == "2026-03-01T12:00:00.123456Z"


def test_the_next_moment_of_a_schedule_is_later_than_now() -> None:
    schedule = parse_schedule("*/5 * * * *")

    assert next_moment_ns(schedule, 0) == 300 * SECOND_NS
    assert next_moment_ns(schedule, 300 * SECOND_NS - 1) == 300 * SECOND_NS
    assert next_moment_ns(schedule, 300 * SECOND_NS) == 600 * SECOND_NS


@pytest.mark.parametrize("value", ["0 0 31 2 *", "* * * *", "* * * * * *", "@daily", 5])
def test_what_is_no_schedule_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="schedule"):
        parse_schedule(value)
