"""Numbers and texts as people read them on a terminal."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from common.service.logging import escape

PLAIN_WIDTH_COLUMNS = 120
"""Width where there is no terminal to ask: logs and pipes are not 80 wide."""

UNKNOWN = "-"


def console() -> Console:
    """Return a console on stdout; colours only on a terminal."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH_COLUMNS
    return Console(width=width, highlight=False, emoji=False)


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
