"""Cron schedules: five fields, in UTC, so that no change of clocks skips one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ANY_MOMENT = datetime(2024, 1, 1, tzinfo=UTC)


def parse_schedule(value: object) -> str:
    """Return a cron expression of five fields that some moment matches.

    Raises ValueError with the form to write.
    """
    remedy = 'write five cron fields, as in "*/5 * * * *"'
    if not isinstance(value, str) or len(value.split()) != 5:
        raise ValueError(f"{value!r} is not a schedule: {remedy}")
    try:
        next(CronSim(value, _ANY_MOMENT))
    except CronSimError as error:
        raise ValueError(f"{value!r} is not a schedule ({error}): {remedy}") from None
    except StopIteration:
        raise ValueError(
            f"the schedule {value!r} names no moment of the next 50 years: "
            "choose a day that exists"
        ) from None
    return value


def next_moment_ns(schedule: str, after_ns: int) -> int:
    """Return the first moment of a parsed schedule later than `after_ns`.

    Both are nanoseconds since 1970-01-01 UTC.
    """
    after = _EPOCH + timedelta(microseconds=after_ns // 1000)
    moment = next(CronSim(schedule, after))
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
