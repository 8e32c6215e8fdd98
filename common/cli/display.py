"""Numbers and texts as people read them on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from common.service.logging import escape

PLAIN_WIDTH_COLUMNS = 120
"""Width where there is no terminal to ask: logs and pipes are not 80 wide."""

ENDLESS_COLUMNS = 100_000
"""To ask how wide a table would like to be."""

NARROW_COLUMNS = 100
"""Below it tables of moments go without their second one: `--json` has all."""

UNKNOWN = "-"


def console() -> Console:
    """Return a console on stdout; colours only on a terminal."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH_COLUMNS
    return Console(width=width, highlight=False, emoji=False)


@dataclass(frozen=True, slots=True)
class Fitting:
    """A table that goes without columns where a terminal has no room for all.

    Rather fewer figures that can be read than all of them cut short: `--json` has
    the rest. `make` is told the titles to leave out, `spare` has them in the order in
    which they go.
    """

    make: Callable[[frozenset[str]], Table]
    spare: Sequence[str]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        endless = options.update(max_width=ENDLESS_COLUMNS)
        for count in range(len(self.spare) + 1):
            table = self.make(frozenset(self.spare[:count]))
            wanted = Measurement.get(console, endless, table).maximum
            if wanted <= options.max_width or count == len(self.spare):
                yield table
                return


def plain(value: object, style: str = "") -> Text:
    """Return text for a table: no markup, no control bytes, whoever chose it."""
    return Text(escape(str(value)), style=style)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def size_text(size_bytes: float | None) -> str:
    """Write a size with three digits, as in "1.46 GiB"."""
    if size_bytes is None:
        return UNKNOWN
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    size = float(size_bytes)
    for unit in units:
        if size < 1024 or unit == units[-1]:
            break
        size /= 1024
    if unit == "B":
        return f"{size:.0f} B"
    digits = 2 if size < 10 else 1 if size < 100 else 0
    return f"{size:.{digits}f} {unit}"


def seconds_text(seconds: float | None) -> str:
    """Write a span in the units one would say, as in "740 µs" or "3 h 12 min"."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
