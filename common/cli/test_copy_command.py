"""`farshore test-copy`: writable copies of a recovery point, to try things with."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import (
    NARROW_COLUMNS,
    console,
    plain,
    print_json,
    size_text,
)
from common.cli.named_on_site import group_argument
from common.service.logging import escape

Copy = dict[str, Any]


@click.group(name="test-copy")
def test_copy() -> None:
    """Start, stop and list test copies at the receiving site.

    A test copy is writable and does not disturb replication. It ends when it is
    stopped, or with the daemon, and all that was written to it is gone then.
    """


@test_copy.command()
@group_argument
@click.option("--point", type=int, help="The recovery point; default: the newest.")
@click.option("--name", help="What it is called; default: copy1, copy2, ...")
@json_option
@daemon_options
def start(
    group: str,
    point: int | None,
    name: str | None,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """Export every volume of GROUP, as at a recovery point, for writing."""
    arguments = {"group": group, "action": "start", "name": name, "point": point}
    with connect(socket_path, config) as client:
        (copy,) = client.call("test-copy", arguments)
    if as_json:
        print_json(copy)
        return
    click.echo(
        escape(f"{group}: test copy {copy['name']} of point {copy['point']}, cut at ")
        + escape(f"{copy['cut_time']}")
    )
    for export in copy["exports"]:
        for uri in export["uris"] or [export["export"]]:
            click.echo(f"  {escape(uri)}")
    click.echo(
        f"to end it: farshore test-copy stop {escape(group)} --name "
        f"{escape(copy['name'])}"
    )


@test_copy.command()
@group_argument
@click.option("--name", help="Which one; may be left out where there is only one.")
@json_option
@daemon_options
def stop(
    group: str,
    name: str | None,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """End a test copy of GROUP: connections closed, what was written gone."""
    arguments = {"group": group, "action": "stop", "name": name}
    with connect(socket_path, config) as client:
        (copy,) = client.call("test-copy", arguments, timeout_seconds=None)
    if as_json:
        print_json(copy)
    else:
        click.echo(
            escape(f"{group}: test copy {copy['name']} ended, ")
            + f"{size_text(copy['bytes'])} given up"
        )


@test_copy.command(name="list")
@group_argument
@json_option
@daemon_options
def list_copies(
    group: str, as_json: bool, socket_path: str | None, config: str | None
) -> None:
    """List the test copies of GROUP."""
    with connect(socket_path, config) as client:
        copies = client.call("test-copy", {"group": group, "action": "list"})
    if as_json:
        print_json(copies)
    elif not copies:
        click.echo(f"{group}: no test copy")
    else:
        screen = console()
        screen.print(_table(copies, is_wide=screen.width >= NARROW_COLUMNS))


def _table(copies: list[Copy], *, is_wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    started = ("STARTED",) if is_wide else ()
    for title in ("NAME", "POINT", "CUT", *started, "SIZE", "CONNECTIONS", "EXPORTS"):
        is_moment = title in {"CUT", "STARTED"}
        table.add_column(title, header_style="dim", no_wrap=is_moment)
    for copy in copies:
        table.add_row(
            plain(copy["name"], "bold"),
            plain(copy["point"]),
            plain(copy["cut_time"]),
            *((plain(copy["started"]),) if is_wide else ()),
            plain(size_text(copy["bytes"])),
            plain(copy["connections"]),
            plain(" ".join(export["export"] for export in copy["exports"])),
        )
    return table
