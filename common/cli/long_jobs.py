"""Work of a daemon that outlives the command that asked for it: verify and scrub."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console, RenderableType
from rich.live import Live

from common.cli.daemon_options import daemon_options, json_option
from common.cli.display import print_json
from common.service.control_client import ControlClient
from common.service.control_requests import RATE_DEFAULT

POLL_SECONDS_MIN = 0.05
POLL_SECONDS_MAX = 1.0
"""Asked often at first: a small volume is through in a moment."""

Report = dict[str, Any]
Command = TypeVar("Command", bound=Callable[..., Any])


def job_options(rate_help: str) -> Callable[[Command], Command]:
    """Return what gives a command the options that all of this work has."""
    options = (
        click.option(
            "--rate",
            metavar="RATE",
            default=RATE_DEFAULT,
            show_default=True,
            help=rate_help,
        ),
        click.option("--no-wait", is_flag=True, help="Begin, and return."),
        click.option(
            "--report", is_flag=True, help="Show the one under way, or the last one."
        ),
        click.option("--stop", is_flag=True, help="End the one under way."),
        json_option,
        daemon_options,
    )

    def with_options(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return with_options


def arguments_of(
    group: str, *, report: bool, stop: bool, start: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of the request; `start` are those of a new piece of work.

    Raises `click.UsageError` where both others are asked for.
    """
    if report and stop:
        raise click.UsageError("--report and --stop are two requests: give one")
    if report or stop:
        return {"group": group, "action": "report" if report else "stop"}
    return {"group": group, "action": "start"} | start


def show(
    request: str,
    group: str,
    found: Report | None,
    text: Callable[[str, Report], str],
    *,
    as_json: bool,
) -> None:
    """Print what the daemon has told, as `text` has it or in JSON."""
    if as_json:
        print_json(found)
    elif found is None:
        click.echo(f"{group}: no {request} since the daemon's start")
    else:
        click.echo(text(group, found))


def wait_for_end(
    client: ControlClient,
    request: str,
    group: str,
    progress: Callable[[Report], RenderableType],
) -> Report:
    """Wait until the work has ended, showing its progress; return its report.

    `progress` is drawn on stderr, and only where that is a terminal.
    """
    asked = {"group": group, "action": "report"}
    pause = POLL_SECONDS_MIN
    terminal = Console(stderr=True)
    with Live(console=terminal, auto_refresh=False, transient=True) as live:
        while True:  # ends with the work, or with Ctrl-C
            found: Report = client.call(request, asked)
            if found["result"] is not None:
                return found
            if terminal.is_terminal:
                live.update(progress(found), refresh=True)
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS_MAX)
