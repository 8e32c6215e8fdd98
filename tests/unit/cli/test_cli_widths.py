"""What tables leave out where a terminal is narrow, rather than cutting it short."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from common.cli import failback_commands, group_commands, test_copy_command
from common.cli.status_view import COLUMNS, SPARE_COLUMNS, status_view

MOMENT = "2026-11-23T02:15:07.318042Z"

GROUP: dict[str, Any] = {
    "name": "orders",
    "state": "disconnected",
    "recovery_point": {"number": 123456},
    "recovery_point_age_seconds": 59.9,
    "link": {"state": "connected", "encrypted": True},
    "changed_bytes": 3 << 20,
    "out_of_sync_bytes": 5 << 30,
    "cycle_number": 123457,
    "last_cycle": {"hold_seconds": 0.00012, "bytes_on_wire": 2048},
    "volumes": [{"size_bytes": 96 << 20}],
}


def shown(renderable: Any, width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width).print(renderable)
    return text.getvalue().splitlines()


def status_table(width: int, **changes: Any) -> tuple[str, str]:
    status = {"site": "a", "role": "primary", "groups": [{**GROUP, **changes}]}
    _, heads, row = shown(status_view(status), width)
    return heads, row


def test_a_wide_terminal_has_every_column() -> None:
    heads, _ = status_table(120)
    assert all(title in heads for title, _ in COLUMNS)


@pytest.mark.parametrize("width", [80, 72, 60])
def test_a_narrow_one_goes_without_columns_and_cuts_none_short(width: int) -> None:
    heads, row = status_table(width)
    assert "…" not in heads + row
    for title in ("GROUP", "STATE", "POINT", "AGE", "LINK"):
        assert title in heads
    for figure in ("orders", "disconnected", "123456", "59.9 s", "connected"):
        assert figure in row
    left = [title in heads for title in SPARE_COLUMNS]
    assert left == sorted(left)
    assert not left[0]


def test_plain_text_is_said_at_80_columns_whatever_else_goes() -> None:
    _, row = status_table(80, link={"state": "connected", "encrypted": False})
    assert "connected (plain text)" in row


@pytest.mark.parametrize(("width", "moments"), [(80, 1), (120, 2)])
def test_moments_are_whole(width: int, moments: int) -> None:
    is_wide = width >= 100
    point = {"number": 7, "cut_time": MOMENT, "current_as_of": MOMENT}
    point |= {"bytes": 1000, "pinned": True, "label": "fork of " + "2e70dfc5" * 4}
    lines = shown(group_commands._points_table([point], is_wide=is_wide), width)
    assert " ".join(lines).count(MOMENT) == moments
    assert "…" not in " ".join(lines)
    copy = {"name": "copy1", "point": 7, "cut_time": MOMENT, "started": MOMENT}
    copy |= {"bytes": 0, "connections": 0, "exports": [{"export": "orders/d+copy1"}]}
    lines = shown(test_copy_command._table([copy], is_wide=is_wide), width)
    assert " ".join(lines).count(MOMENT) == moments


@pytest.mark.parametrize("width", [80, 120])
def test_a_fork_s_lineage_is_whole(width: int) -> None:
    fork = {"number": 1907, "kept_at": MOMENT, "lineage": "2e70dfc5" * 4}
    fork |= {"bytes": 8 << 10, "exports": ["orders/data@1907"]}
    table = failback_commands._table([fork], is_wide=width >= 100)
    _, row = shown(table, width)
    assert MOMENT in row
    assert fork["lineage"] in row
