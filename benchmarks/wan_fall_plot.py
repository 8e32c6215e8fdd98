"""Draw what wan_fall.py has recorded: `python benchmarks/wan_fall_plot.py FILE.json`.

Writes FILE.svg: for each run the age of the recovery point over time, the target, the
time in which the link was fallen, and the moments at which a breach was announced.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, PANEL_HEIGHT, LEFT, TOP, BOTTOM = 760, 190, 60, 46, 34
RIGHT = 16
INK, GRID, AGE, TARGET, FALLEN = "#222", "#ddd", "#1f5fa8", "#b3261e", "#f3e3c3"
TICK_SECONDS = 10


class Panel:
    """One run; `y` is its top."""

    def __init__(self, run: dict[str, Any], recorded: dict[str, Any], y: float) -> None:
        self.run, self.recorded, self.top = run, recorded, y + TOP
        looks = run["looks"]
        self.first, self.last = looks[0]["seconds"], looks[-1]["seconds"]
        oldest = max(look["age_seconds"] for look in looks)
        self.highest = max(oldest, recorded["rpo_seconds"]) * 1.1

    def x(self, seconds: float) -> float:
        share = (seconds - self.first) / (self.last - self.first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, age: float) -> float:
        return self.top + (1 - age / self.highest) * PANEL_HEIGHT

    def draw(self) -> Iterator[str]:
        recorded, bottom = self.recorded, self.y(0)
        rate = self.run["bytes_per_second"] / 1e6
        yield text(
            LEFT, self.top - 26, f"Hosts write {rate:g} MB/s, {self.run['hosts_write']}"
        )
        start, end = self.x(0), self.x(recorded["fallen_seconds"])
        yield (
            f'<rect x="{start:.1f}" y="{self.top:.1f}" width="{end - start:.1f}" '
            f'height="{PANEL_HEIGHT}" fill="{FALLEN}"/>'
        )
        share = recorded["fallen_share"]
        yield text(
            (start + end) / 2,
            self.top - 8,
            f"the link carries {share * recorded['megabits']:g} Mbit/s",
            "middle",
        )
        yield from self._axes(bottom)
        target = self.y(recorded["rpo_seconds"])
        yield line(LEFT, target, WIDTH - RIGHT, target, TARGET, dashed=True)
        yield text(WIDTH - RIGHT, target - 4, "rpo", "end", TARGET)
        points = " ".join(
            f"{self.x(look['seconds']):.1f},{self.y(look['age_seconds']):.1f}"
            for look in self.run["looks"]
        )
        yield (
            f'<polyline points="{points}" fill="none" stroke="{AGE}" '
            'stroke-width="1.4"/>'
        )
        yield from self._announced(bottom)

    def _axes(self, bottom: float) -> Iterator[str]:
        step = max(1, round(self.highest / 5))
        for age in range(0, int(self.highest) + 1, step):
            yield line(LEFT, self.y(age), WIDTH - RIGHT, self.y(age), GRID)
            yield text(LEFT - 6, self.y(age) + 4, f"{age} s", "end")
        seconds = int(self.first // TICK_SECONDS) * TICK_SECONDS
        while seconds <= self.last:
            if seconds >= self.first:
                yield line(self.x(seconds), bottom, self.x(seconds), bottom + 4, INK)
                yield text(self.x(seconds), bottom + 17, f"{seconds}", "middle")
            seconds += TICK_SECONDS
        yield line(LEFT, bottom, WIDTH - RIGHT, bottom, INK)

    def _announced(self, bottom: float) -> Iterator[str]:
        moments = {"in danger": "in_danger_at", "breached": "breached_at"}
        for number, (words, key) in enumerate(moments.items()):
            at = self.run[key]
            if at is None:
                continue
            x = self.x(at)
            yield line(x, self.top, x, bottom, TARGET if number else INK, dashed=True)
            yield text(x + 3, self.top + 14 + 14 * number, f"{words}, {at:.1f} s")


def line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False
) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}"{dashes}/>'
    )


def text(
    x: float, y: float, words: str, anchor: str = "start", colour: str = INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(words)}</text>"
    )


def drawing(recorded: dict[str, Any]) -> str:
    """Return the SVG."""
    each = TOP + PANEL_HEIGHT + BOTTOM
    height = each * len(recorded["runs"]) + 8
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">'
    )
    parts = [head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>']
    for number, run in enumerate(recorded["runs"]):
        parts += Panel(run, recorded, number * each).draw()
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    for name in sys.argv[1:]:
        path = Path(name)
        path.with_suffix(".svg").write_text(drawing(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
