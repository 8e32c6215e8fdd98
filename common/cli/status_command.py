"""`farshore status`: once, or drawn again each second."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live

from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import console, plain, print_json
from common.cli.status_view import status_view
from common.cli.watch_view import Watched
from common.errors import UnreachableError

WATCH_SECONDS = 1.0

Fetch = Callable[[], dict[str, Any]]
Pause = Callable[[], None]


@click.command()
@json_option
@click.option("--watch", is_flag=True, help="Show it again each second, until Ctrl-C.")
@daemon_options
def status(
    as_json: bool, watch: bool, socket_path: str | None, config: str | None
) -> None:
    """Show every group: state, newest recovery point and its age, link, progress."""

    def fetch() -> dict[str, Any]:
        with connect(socket_path, config) as client:
            result: dict[str, Any] = client.call("status")
            return result

    def pause() -> None:
        time.sleep(WATCH_SECONDS)

    if watch and as_json:
        watch_lines(fetch, pause)
    elif watch:
        watch_screen(fetch, pause, console())
    elif as_json:
        print_json(fetch())
    else:
        console().print(status_view(fetch()))


def watch_lines(fetch: Fetch, pause: Pause) -> None:
    """Print one JSON object a line, until Ctrl-C."""
    try:
        while True:
            click.echo(json.dumps(fetch()))
            pause()
    except KeyboardInterrupt:
        return


def watch_screen(fetch: Fetch, pause: Pause, screen: Console) -> None:
    """Draw the status again and again, until Ctrl-C; of a terminal it takes all.

    A daemon that goes away meanwhile leaves its last state on the screen, with a
    line that says so: it may be restarting. One that is not there at the start is
    an error. What was shown last stays behind on the terminal.
    """
    watched = Watched()
    watched.see(fetch(), time.monotonic())
    view = watched.view(screen.width, time.monotonic())
    try:
        with Live(
            view, console=screen, auto_refresh=False, screen=screen.is_terminal
        ) as live:
            while True:
                pause()
                try:
                    watched.see(fetch(), time.monotonic())
                    view = watched.view(screen.width, time.monotonic())
                    live.update(view, refresh=True)
                except UnreachableError as error:
                    lost = plain(f"no answer, trying again: {error}", "bold red")
                    live.update(Group(view, lost), refresh=True)
    except KeyboardInterrupt:
        if screen.is_terminal:
            screen.print(view)
