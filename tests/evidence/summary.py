"""The figures by which a replicator is compared with others, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.evidence.figures import SECONDS_PER_YEAR, count
from tests.support.evidence import Record

Found = Mapping[str, Mapping[str, Any]]
"""Figures by the name of their record."""


def _images(found: Found) -> str:
    run = found["crash_images"]
    return f"{run['distinct_images']:,}, {count(run['violations'], 'violation')}"


def _seeds(found: Found) -> str:
    run = found["simulation"]
    return f"{run['seeds']:,}, {run['failed']:,} failed"


def _years(found: Found) -> str:
    return f"{found['simulation']['simulated_seconds'] / SECONDS_PER_YEAR:.3g}"


def _kill_points(found: Found) -> str:
    return f"{found['torture_kills']['kill_points']:,}"


def _cuts_compared(found: Found) -> str:
    real = found["cut_oracle"]["cuts_compared_byte_for_byte"]
    real += found["kills"]["points_compared_byte_for_byte"]
    return f"{real:,}, and {found['simulation']['images_compared']:,} simulated"


def _museum(found: Found) -> str:
    run = found["museum"]
    return (
        f"{run['historical_bugs_caught']} of {run['historical_bugs']}, and "
        f"{run['own_orders_caught']} of {run['own_orders']} broken orders of our own"
    )


def _mounts(found: Found) -> str:
    stops = found["torture_shutdowns"]["mounts"]
    return f"{found['torture_power_cuts']['mounts']:,}, and {stops:,} after a stop"


def _detection(found: Found) -> str:
    return f"{found['torture_links']['detection_seconds_max']} s"


LINES: tuple[tuple[str, Callable[[Found], str]], ...] = (
    ("distinct crash images", _images),
    ("seeds of the simulation", _seeds),
    ("simulated years", _years),
    ("kill points of the real daemons", _kill_points),
    ("cuts compared byte for byte", _cuts_compared),
    ("historical bugs put back that turned the tests red", _museum),
    ("mounts of real file systems after a power cut", _mounts),
    ("longest detection of a dead link", _detection),
)


def summary(records: Mapping[str, Record]) -> str:
    """Return a table of what the records say; of what was not run it says so."""
    found = {name: record.figures for name, record in records.items()}
    rows = ["| in short | |", "|---|---|"]
    for words, tell in LINES:
        try:
            told = tell(found)
        except (KeyError, TypeError, ValueError):
            told = "**not run**, or unreadable"
        rows.append(f"| {words} | {told} |")
    return "\n".join([*rows, ""])
