"""What a group's figures were: two rings in memory, for the status page.

A fine one of an hour, a coarse one of a day, both bounded; a restart begins anew. What
must outlive that belongs into a monitoring system.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from common.service.status import GroupStatus

SAMPLE_SECONDS: Final = 5.0
FINE_SAMPLES: Final = 720
"""An hour."""
COARSE_EVERY: Final = 24
COARSE_SAMPLES: Final = 720
"""A day, of two minutes each: with the greatest age in them, else the last figure."""

MAP_ROW_SECONDS: Final = 60.0
MAP_ROWS: Final = 60
"""Rows of the map of where hosts wrote: an hour."""

FIELDS: Final = (
    "time_seconds",
    "age_seconds",
    "target_seconds",
    "changed_bytes",
    "out_of_sync_bytes",
    "total_changed_bytes",
    "total_wire_bytes",
    "hold_seconds",
    "cycle_number",
    "journal_bytes",
    "journal_limit_bytes",
)
AGE: Final = FIELDS.index("age_seconds")


def sample(status: GroupStatus, now_seconds: float) -> tuple[float, ...]:
    """Return a status's figures, as `FIELDS` names them; NaN is not known."""
    totals, last, forecast = status.totals, status.last_cycle, status.forecast
    history = status.history
    found = (
        now_seconds,
        status.recovery_point_age_seconds,
        forecast.target_seconds if forecast else None,
        status.changed_bytes,
        status.out_of_sync_bytes,
        totals.bytes_changed if totals else None,
        totals.bytes_on_wire if totals else None,
        last.hold_seconds if last else None,
        status.cycle_number,
        history.journal_bytes if history else None,
        history.journal_limit_bytes if history else None,
    )
    return tuple(math.nan if value is None else float(value) for value in found)


class Ring:
    """The newest rows of numbers, at most so many."""

    def __init__(self, capacity: int) -> None:
        self._rows = np.empty((capacity, len(FIELDS)))
        self._count = 0

    def add(self, row: Sequence[float]) -> None:
        self._rows[self._count % len(self._rows)] = row
        self._count += 1

    def columns(self) -> list[list[float | None]]:
        """Return a list a field, oldest first; None is not known."""
        capacity = len(self._rows)
        if self._count <= capacity:
            rows = self._rows[: self._count]
        else:
            rows = np.roll(self._rows, -(self._count % capacity), axis=0)
        return [
            [None if math.isnan(value) else value for value in column]
            for column in rows.T.tolist()
        ]


class WriteMap:
    """Where hosts wrote in one volume, minute by minute."""

    def __init__(self) -> None:
        self.mark = 0
        self._rows: deque[tuple[float, list[int]]] = deque(maxlen=MAP_ROWS)

    def add(self, now_seconds: float, mark: int, columns: Sequence[int]) -> None:
        """Count a sample into the row of its minute.

        `columns` has as many numbers each time, unless the volume has grown: then what
        was before means other places, and goes.
        """
        self.mark = mark
        minute = now_seconds - now_seconds % MAP_ROW_SECONDS
        if self._rows and len(self._rows[-1][1]) != len(columns):
            self._rows.clear()
        if not self._rows or self._rows[-1][0] != minute:
            self._rows.append((minute, [0] * len(columns)))
        row = self._rows[-1][1]
        for column, count in enumerate(columns):
            row[column] += count

    def to_json(self) -> dict[str, Any]:
        return {
            "times_seconds": [time for time, _ in self._rows],
            "rows": [list(row) for _, row in self._rows],
        }


class GroupHistory:
    """Of one group, on the main loop."""

    def __init__(self) -> None:
        self._fine = Ring(FINE_SAMPLES)
        self._coarse = Ring(COARSE_SAMPLES)
        self._pending: list[tuple[float, ...]] = []
        self._maps: dict[str, WriteMap] = {}

    def add(self, row: tuple[float, ...]) -> None:
        self._fine.add(row)
        self._pending.append(row)
        if len(self._pending) == COARSE_EVERY:
            ages = [each[AGE] for each in self._pending if not math.isnan(each[AGE])]
            last = list(self._pending.pop())
            if ages:
                last[AGE] = max(ages)
            self._coarse.add(last)
            self._pending.clear()

    def marks(self) -> dict[str, int]:
        """Return what `write_map` is to begin from."""
        return {name: found.mark for name, found in self._maps.items()}

    def add_map(self, now_seconds: float, written: dict[str, Any]) -> None:
        """Count what `write_map` returned."""
        for name, found in written.items():
            one = self._maps.setdefault(name, WriteMap())
            one.add(now_seconds, found["mark"], found["columns"])

    def to_json(self) -> dict[str, Any]:
        return {
            "fields": FIELDS,
            "fine": self._fine.columns(),
            "coarse": self._coarse.columns(),
            "written": {name: found.to_json() for name, found in self._maps.items()},
        }
