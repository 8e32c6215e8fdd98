"""Cycles as they commit, one line each, over one line that lives."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from common.cli.display import plain, seconds_text, size_text

_COLUMNS: Final = (
    ("CYCLE", 6),
    ("HOLD", 10),
    ("DRAIN", 10),
    ("TRACKS", 8),
    ("CHANGED", 11),
    ("ON THE WIRE", 12),
    ("POINT'S AGE", 12),
    ("TRANSACTIONS", 13),
)
"""Title and width: lines come one by one, so no table can measure them."""


def _line(cells: tuple[str, ...]) -> str:
    return " ".join(
        cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True)
    )


class CycleTable:
    """Prints a line for each committed cycle it is shown, never one twice."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._newest = 0
        self.committed = 0

    def head(self) -> None:
        titles = tuple(title for title, _ in _COLUMNS)
        self._screen.print(Text(_line(titles), style="bold"))

    def show(self, live: Live, group: dict[str, Any], transactions: int) -> None:
        """Take in the primary's newest status and draw it."""
        cycle, point = group["last_cycle"], group["recovery_point"]
        if cycle is not None and point is not None and cycle["number"] > self._newest:
            self._newest = cycle["number"]
            self.committed += 1
            self._screen.print(Text(_line(_cells(group, transactions))))
        live.update(_now(group, transactions), refresh=True)


def _cells(group: dict[str, Any], transactions: int) -> tuple[str, ...]:
    cycle = group["last_cycle"]
    return (
        str(cycle["number"]),
        seconds_text(cycle["hold_seconds"]),
        seconds_text(cycle["drain_seconds"]),
        str(cycle["tracks"]),
        size_text(cycle["bytes_changed"]),
        size_text(cycle["bytes_on_wire"]),
        seconds_text(group["recovery_point_age_seconds"]),
        str(transactions),
    )


def _now(group: dict[str, Any], transactions: int) -> Text:
    state = str(group["state"]).replace("_", " ")
    age = seconds_text(group["recovery_point_age_seconds"])
    out_of_sync = size_text(group["out_of_sync_bytes"])
    return plain(
        f"  {state:<10}  newest point {age} old, {out_of_sync} not yet there, "
        f"{transactions} transactions",
        "cyan",
    )
