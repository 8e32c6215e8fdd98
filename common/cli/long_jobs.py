"""Work of a daemon that outlives the command that asked for it: verify and scrub."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.live import Live

from common.service.control_client import ControlClient

POLL_SECONDS_MIN = 0.05
POLL_SECONDS_MAX = 1.0
"""Asked often at first: a small volume is through in a moment."""

Report = dict[str, Any]


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
