"""`farshore status --watch`: the status, and how it came to be. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from common.cli.display import plain, seconds_text, size_text
from common.cli.progress_view import Shrinking
from common.cli.status_view import status_view

SAMPLES_MAX = 600
"""Ten minutes of looks; a terminal is seldom as wide."""

MARGIN_COLUMNS = 36
"""What names and figures beside a sparkline take."""

SPARK_COLUMNS_MIN = 10
BARS = "▁▂▃▄▅▆▇█"
GAP = " "


def sparkline(values: Iterable[float | None], columns: int) -> str:
    """Return the newest values as bars, from nothing to the greatest; None is a gap."""
    shown = list(values)[-columns:]
    greatest = max((value for value in shown if value is not None), default=0.0)
    return "".join(_bar(value, greatest) for value in shown)


def _bar(value: float | None, greatest: float) -> str:
    if value is None:
        return GAP
    if greatest <= 0:
        return BARS[0]
    return BARS[min(int(value / greatest * len(BARS)), len(BARS) - 1)]


class _Seen:
    """What was seen of one group."""

    def __init__(self) -> None:
        self.ages: deque[float | None] = deque(maxlen=SAMPLES_MAX)
        self.rates: deque[float | None] = deque(maxlen=SAMPLES_MAX)
        self.left = Shrinking()
        self.cycle: int | None = None
        self._moved: tuple[float, float] | None = None
        self._operation: str | None = None
        self._undone = Shrinking()
        """Of that operation."""

    def add(self, group: dict[str, Any], now: float) -> None:
        self.ages.append(group.get("recovery_point_age_seconds"))
        moved = _moved_bytes(group)
        before, self._moved = self._moved, None if moved is None else (now, moved)
        self.rates.append(_rate(before, self._moved))
        if self.cycle != group.get("cycle_number"):
            self.cycle, self.left = group.get("cycle_number"), Shrinking()
        if (left := group.get("out_of_sync_bytes")) is not None:
            self.left.see(left, now)

    def with_time_left(self, group: dict[str, Any], now: float) -> dict[str, Any]:
        """Return the group, with a time left where its daemon knows none."""
        progress = group.get("progress")
        if progress is None or progress["operation"] != self._operation:
            self._operation = None if progress is None else progress["operation"]
            self._undone = Shrinking()
        if progress is None or progress.get("eta_seconds") is not None:
            return group
        self._undone.see(progress["total_bytes"] - progress["done_bytes"], now)
        left = {"eta_seconds": self._undone.eta_seconds(now)}
        return {**group, "progress": {**progress, **left}}


def _moved_bytes(group: dict[str, Any]) -> float | None:
    """Return what has gone over the links of the session so far."""
    link = group.get("link") or {}
    if link.get("state") != "connected":
        return None
    if link.get("session_sent_bytes") is not None:
        return float(link["session_sent_bytes"])
    return float(sum(peer.get("received_bytes", 0) for peer in link.get("peers", [])))


def _rate(
    before: tuple[float, float] | None, after: tuple[float, float] | None
) -> float | None:
    """Return bytes a second; None over a lost link, whose counts begin anew."""
    if before is None or after is None or after[1] < before[1] or after[0] <= before[0]:
        return None
    return (after[1] - before[1]) / (after[0] - before[0])


class Watched:
    """A site, seen again and again."""

    def __init__(self) -> None:
        self._groups: dict[str, _Seen] = {}
        self._status: dict[str, Any] = {"groups": []}

    def see(self, status: dict[str, Any], now: float) -> None:
        groups = []
        for group in status.get("groups", []):
            seen = self._groups.setdefault(group["name"], _Seen())
            seen.add(group, now)
            groups.append(seen.with_time_left(group, now))
        self._status = {**status, "groups": groups}

    def view(self, columns: int, now: float) -> RenderableType:
        """Return the status, and below it a line of age and rate for each group."""
        parts: list[RenderableType] = [status_view(self._status), plain("")]
        width = max(columns - MARGIN_COLUMNS, SPARK_COLUMNS_MIN)
        lines = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        for group in self._status.get("groups", []):
            seen = self._groups[group["name"]]
            lines.add_row(
                plain(group["name"], "bold"),
                plain("age"),
                plain(seconds_text(_last(seen.ages))),
                plain(sparkline(seen.ages, width), "cyan"),
            )
            rate = _last(seen.rates)
            lines.add_row(
                plain(""),
                plain("link"),
                plain("-" if rate is None else f"{size_text(rate)}/s"),
                plain(sparkline(seen.rates, width), "green"),
            )
            if group.get("state") == "draining" and not group.get("progress"):
                row = seen.left.row(f"{group['name']}: cycle {seen.cycle}", now)
                parts += [] if row is None else [row]
        parts.append(lines)
        return Group(*parts)


def _last(values: deque[float | None]) -> float | None:
    return values[-1] if values else None
