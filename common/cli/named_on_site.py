"""Groups and volumes as arguments of commands, completed by what the site has.

Completion says nothing where it knows nothing: no daemon, no right to ask it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from common.cli.daemon_options import connect
from common.errors import FarshoreError, UnreachableError

ANSWER_SECONDS_MAX = 2.0
"""Whoever has pressed a tab waits for no daemon that hangs."""

F = TypeVar("F", bound=Callable[..., Any])

Named = dict[str, list[str]]
"""Volumes by group."""


def _complete_group(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[str]:
    del parameter
    return [name for name in _known(context) if name.startswith(begun)]


def _complete_volume(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[str]:
    del parameter
    names = [f"{group}/{v}" for group, found in _known(context).items() for v in found]
    return [name for name in names if name.startswith(begun)]


def _known(context: click.Context) -> Named:
    """Return what the daemon has, or else the config of one that does not run."""
    config = context.params.get("config")
    try:
        return _of_daemon(context.params.get("socket_path"), config)
    except UnreachableError:
        return _of_config(config)
    except (FarshoreError, click.UsageError):
        return {}


def _of_daemon(socket_path: str | None, config: str | None) -> Named:
    with connect(socket_path, config) as client:
        status = client.call("status", timeout_seconds=ANSWER_SECONDS_MAX)
    return {
        group["name"]: [volume["name"] for volume in group["volumes"]]
        for group in status["groups"]
    }


def _of_config(path: str | None) -> Named:
    if path is None:
        return {}
    from common.service.config import load_any  # noqa: PLC0415 - as `find_socket`

    try:
        groups = load_any(path).groups
    except FarshoreError:
        return {}
    return {group.name: [volume.name for volume in group.volumes] for group in groups}


group_argument = click.argument("group", shell_complete=_complete_group)


def volume_argument(name: str) -> Callable[[F], F]:
    """Return the argument GROUP/VOLUME, for a parameter of that name."""
    return click.argument(name, metavar="GROUP/VOLUME", shell_complete=_complete_volume)
