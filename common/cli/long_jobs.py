"""Work of a daemon that outlives the command that asked for it: verify and scrub."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.markup import escape as escape_markup

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
    client: ControlClient, request: str, group: str, progress: Callable[[Report], str]
) -> Report:
    """Wait until the work has ended, showing its progress; return its report."""
    asked = {"group": group, "action": "report"}
    pause = POLL_SECONDS_MIN
    with Console(stderr=True).status("") as line:
        while True:  # ends with the work, or with Ctrl-C
            found: Report = client.call(request, asked)
            if found["result"] is not None:
                return found
            line.update(escape_markup(progress(found)))
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS_MAX)
