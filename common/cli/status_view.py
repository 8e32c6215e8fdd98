"""`farshore status` as tables and bars; a pure function of the status object.

Reads what came over the socket as plain JSON, so that a command of one version
shows what it knows of a daemon of another.
"""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from common.cli.display import UNKNOWN, Fitting, plain, seconds_text, size_text
from common.cli.progress_view import progress_row
from common.cli.role_change_view import role_change_lines

STATE_STYLES = {
    "idle": "green",
    "draining": "green",
    "first_copy": "cyan",
    "suspended": "yellow",
    "disconnected": "yellow",
    "suspect": "red",
    "superseded": "red",
    "taken_over": "magenta",
    "failed": "bold red",
    "connected": "green",
    "connecting": "yellow",
    "down": "red",
    "refused": "bold red",
}


COLUMNS = (
    ("GROUP", "left"),
    ("STATE", "left"),
    ("POINT", "right"),
    ("AGE", "right"),
    ("LINK", "left"),
    ("CHANGED", "right"),
    ("OUT OF SYNC", "right"),
    ("CYCLE", "right"),
    ("HOLD", "right"),
    ("ON WIRE", "right"),
    ("VOLUMES", "left"),
)

SPARE_COLUMNS = ("ON WIRE", "HOLD", "CYCLE", "OUT OF SYNC", "VOLUMES", "CHANGED")
"""Those that a narrow terminal goes without, the first of them first."""


def status_view(status: dict[str, Any]) -> RenderableType:
    """Show every group: state, newest recovery point, link, cycle, change of roles,
    progress."""
    groups = status.get("groups", [])
    title = plain(
        f"{status.get('site')} ({status.get('role')}), farshore {status.get('version')}"
    )
    title.stylize("bold")
    table = Fitting(lambda gone: _groups_table(groups, gone), SPARE_COLUMNS)
    parts: list[RenderableType] = [title, table]
    parts += [line for group in groups for line in role_change_lines(group)]
    parts += [_progress(group) for group in groups if group.get("progress")]
    parts += [line for group in groups for line in _alarms(group)]
    return Group(*parts)


def _groups_table(groups: list[dict[str, Any]], gone: frozenset[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title, justify in COLUMNS:
        if title not in gone:
            table.add_column(title, justify=justify, header_style="dim")  # type: ignore[arg-type]
    for group in groups:
        cells = zip(COLUMNS, _group_row(group), strict=True)
        table.add_row(*(cell for (title, _), cell in cells if title not in gone))
    return table


def _group_row(group: dict[str, Any]) -> list[Text]:
    point = group.get("recovery_point") or {}
    cycle = group.get("last_cycle") or {}
    volumes = group.get("volumes", [])
    total = sum(volume["size_bytes"] for volume in volumes)
    return [
        plain(group.get("name"), "bold"),
        _state(group.get("state")),
        plain(point.get("number", UNKNOWN)),
        plain(seconds_text(group.get("recovery_point_age_seconds"))),
        _link(group.get("link") or {}),
        plain(size_text(group.get("changed_bytes"))),
        plain(size_text(group.get("out_of_sync_bytes"))),
        plain(_known(group.get("cycle_number"))),
        plain(seconds_text(cycle.get("hold_seconds"))),
        plain(size_text(cycle.get("bytes_on_wire"))),
        plain(f"{len(volumes)} ({size_text(total)})"),
    ]


def _known(value: object) -> object:
    return UNKNOWN if value is None else value


def _state(state: object) -> Text:
    return plain(str(_known(state)).replace("_", " "), STATE_STYLES.get(str(state), ""))


def _link(link: dict[str, Any]) -> Text:
    text = _state(link.get("state"))
    if link.get("state") == "connected" and not link.get("encrypted"):
        text.append(" (plain text)", style="yellow")
    return text


def _progress(group: dict[str, Any]) -> Table:
    progress = group["progress"]
    what = f"{group.get('name')}: {progress['operation'].replace('_', ' ')}"
    done, total = progress["done_bytes"], progress["total_bytes"]
    return progress_row(what, done, total, progress.get("eta_seconds"))


def _alarms(group: dict[str, Any]) -> list[Text]:
    lines = []
    for alarm in group.get("alarms", []):
        line = plain(f"alarm: {group.get('name')}: {alarm['name']}: {alarm['message']}")
        line.stylize("bold red")
        lines.append(line)
    return lines
