"""Moments and spans of time as people and programs read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(moment_ns: int) -> str:
    """Write nanoseconds since 1970-01-01 UTC, as in "2026-03-01T12:00:00.000000Z".

    Always microseconds, cut rather than rounded, so that texts sort as moments.
    """
    moment = _EPOCH + timedelta(microseconds=moment_ns // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
