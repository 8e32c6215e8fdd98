"""The command line of a daemon: one option, the config it runs by."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import click

from common.service.runner import run
from common.service.version import farshore_version

Serve = Callable[[str, asyncio.Event, asyncio.Event], Awaitable[None]]
"""(path of the config, reload, stop): serves until `stop` is set."""


def daemon_command(
    name: str, config_name: str, purpose: str, serve: Serve
) -> click.Command:
    """Return the command that runs a daemon in the foreground.

    `config_name`: as its config is called. `purpose`: one sentence of its help.
    """

    @click.command(
        name=name,
        help=f"{purpose}\n\nRuns in the foreground until SIGTERM or SIGINT. SIGHUP has "
        "it read its config again.",
    )
    @click.option(
        "--config",
        "path",
        required=True,
        type=click.Path(dir_okay=False),
        help=f"The {config_name} of this site.",
    )
    @click.version_option(farshore_version(), prog_name=name)
    def command(path: str) -> None:
        reload = asyncio.Event()
        sys.exit(run(name, lambda stop: serve(path, reload, stop), reload))

    return command
