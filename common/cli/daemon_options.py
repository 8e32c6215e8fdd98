"""Which daemon a command talks to, and the options that say so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from common.errors import UnreachableError
from common.service.control_client import ControlClient

DEFAULT_SOCKETS = ("/run/farshore/primary.sock", "/run/farshore/remote.sock")
SOCKET_VARIABLE = "FARSHORE_SOCKET"

F = TypeVar("F", bound=Callable[..., Any])


def daemon_options(command: F) -> F:
    """Add --socket and --config to a command that talks to a daemon."""
    for option in (
        click.option(
            "--config",
            metavar="FILE",
            help="Take the control socket from this config file.",
        ),
        click.option(
            "--socket",
            "socket_path",
            metavar="PATH",
            help=f"The daemon's control socket (else --config, ${SOCKET_VARIABLE}, "
            "or the one daemon of this machine).",
        ),
    ):
        command = option(command)
    return command


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for programs."
)


def find_socket(socket_path: str | None, config: str | None) -> str:
    """Return the control socket: what is said outright wins over what is implied."""
    if socket_path:
        return socket_path
    if config:
        # Only then: it takes longer than all the rest of a command.
        from common.service.config import load_any  # noqa: PLC0415

        return load_any(config).site.control_socket
    if from_environment := os.environ.get(SOCKET_VARIABLE):
        return from_environment
    found = [path for path in DEFAULT_SOCKETS if Path(path).exists()]
    if len(found) > 1:
        choices = " or ".join(f"--socket {path}" for path in found)
        raise click.UsageError(f"two daemons run here: name one with {choices}")
    if not found:
        raise UnreachableError(
            f"no daemon answers: there is neither {' nor '.join(DEFAULT_SOCKETS)}; "
            "start one, or name its socket with --socket PATH"
        )
    return found[0]


def connect(socket_path: str | None, config: str | None) -> ControlClient:
    return ControlClient(find_socket(socket_path, config))
