"""`cut`, `suspend`, `resume` and `points`: what one asks of a group."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click
from rich.table import Table

from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import (
    NARROW_COLUMNS,
    console,
    plain,
    print_json,
    seconds_text,
    size_text,
)
from common.cli.drain_shown import drain_shown
from common.cli.named_on_site import group_argument
from common.errors import NotCommittedError
from common.service.logging import escape


@click.command()
@group_argument
@click.option("--wait", is_flag=True, help="Return once this cut is safe.")
@click.option("--label", metavar="TEXT", help="A name for the recovery point.")
@json_option
@daemon_options
def cut(
    group: str,
    wait: bool,
    label: str | None,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """Cut GROUP now: all its volumes at one instant.

    With --wait, exit code 0 means that this very cut is committed at the remote
    (or that nothing had changed since the newest recovery point), 9 that it was
    not.
    """
    arguments = {"group": group, "wait": wait, "label": label}
    # A cut waits for the cycle before it, a safe one for its drain: for ever, where
    # the link is down. The operator's Ctrl-C ends the wait only.
    waiting = drain_shown(group, _waiting_text(group), (socket_path, config))
    with connect(socket_path, config) as client, waiting:
        result: dict[str, Any] = client.call("cut", arguments, timeout_seconds=None)
    if as_json:
        print_json(result)
    else:
        click.echo(_cut_text(group, result))
    if wait and not result["committed"]:
        raise NotCommittedError(f"{group}: the cut is not committed at the remote")


def _waiting_text(group: str) -> str:
    """Return what a terminal shows meanwhile."""
    return f"cutting {group} (Ctrl-C ends the wait, not the cut)"


def _cut_text(group: str, result: dict[str, Any]) -> str:
    number = result.get("number")
    if result["hold_seconds"] == 0 and result["committed"]:
        # No cut takes no time at all: nothing had changed, so none was made.
        return escape(
            f"{group}: nothing has changed, point {number} is current as of "
            f"{result['cut_time']} (no new point, so no label either)"
        )
    what = f"{group}: cut {number}" if number is not None else f"{group}: cut"
    fate = "committed at the remote" if result["committed"] else "not yet committed"
    held = seconds_text(result["hold_seconds"])
    return escape(f"{what} at {result['cut_time']}, writes held {held}, {fate}")


def _steer(
    command: str, group: str, as_json: bool, sockets: tuple[str | None, str | None]
) -> bool:
    """Suspend or resume a group; print the JSON, or tell that words are wanted."""
    with connect(*sockets) as client:
        client.call(command, {"group": group})
    if as_json:
        print_json({"group": group, "suspended": command == "suspend"})
    return not as_json


@click.command()
@group_argument
@json_option
@daemon_options
def suspend(
    group: str, as_json: bool, socket_path: str | None, config: str | None
) -> None:
    """Begin no new cuts of GROUP; a drain in work finishes."""
    if _steer("suspend", group, as_json, (socket_path, config)):
        click.echo(
            f"{group}: suspended, recovery points grow older from now on\n"
            f"to go on: farshore resume {group}"
        )


@click.command()
@group_argument
@json_option
@daemon_options
def resume(
    group: str, as_json: bool, socket_path: str | None, config: str | None
) -> None:
    """Cut GROUP again, as its trigger says."""
    if _steer("resume", group, as_json, (socket_path, config)):
        click.echo(f"{group}: resumed\nto see it: farshore status --watch")


@click.command()
@group_argument
@click.option("--keep", type=int, metavar="N", help="Keep point N whatever the rules.")
@click.option("--release", type=int, metavar="N", help="Keep point N no longer.")
@json_option
@daemon_options
def points(
    group: str,
    keep: int | None,
    release: int | None,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """List the recovery points of GROUP, newest first.

    A point that is kept stays until it is released: the rules of `retain` do not
    count for it. At the receiving site.
    """
    arguments: dict[str, Any] = {"group": group}
    if keep is not None:
        arguments["keep"] = keep
    if release is not None:
        arguments["release"] = release
    with connect(socket_path, config) as client:
        listed: list[dict[str, Any]] = client.call("points", arguments)
    if as_json:
        print_json(listed)
    elif not listed:
        click.echo(f"{group}: no recovery point yet\nto see why: farshore status")
    else:
        screen = console()
        is_wide = screen.width >= NARROW_COLUMNS
        screen.print(_points_table(listed, is_wide=is_wide))


def _age_text(current_as_of: str) -> str:
    """Return how old a point is by this machine's clock, never less than nothing."""
    age = datetime.now(UTC) - datetime.fromisoformat(current_as_of)
    return seconds_text(max(age.total_seconds(), 0.0))


def _is_here(point: dict[str, Any]) -> bool:
    """A daemon of before this key lists what it has."""
    return bool(point.get("here", True))


def _points_table(listed: list[dict[str, Any]], *, is_wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("POINT", justify="right")
    table.add_column("CUT", no_wrap=True)
    if is_wide:
        table.add_column("CURRENT AS OF", no_wrap=True)
    table.add_column("AGE", justify="right", no_wrap=True)
    table.add_column("SIZE", justify="right", no_wrap=True)
    table.add_column("PINNED")
    has_others = not all(_is_here(point) for point in listed)
    if has_others:
        table.add_column("AT", no_wrap=True)
    table.add_column("LABEL", overflow="fold")
    for point in listed:
        is_here = _is_here(point)
        place = plain("here" if is_here else "other site")
        current = plain(point["current_as_of"])
        table.add_row(
            plain(point["number"], "bold"),
            plain(point["cut_time"]),
            *((current,) if is_wide else ()),
            plain(_age_text(point["current_as_of"])),
            plain(size_text(point["bytes"] if is_here else None)),
            plain("yes" if point["pinned"] else ""),
            *((place,) if has_others else ()),
            plain(point["label"] or ""),
        )
    return table
