"""`farshore grow`: make a volume larger while hosts use it."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.markup import escape as escape_markup

from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import print_json, size_text
from common.cli.named_on_site import volume_argument
from common.cli.volume_name import split_volume_name
from common.errors import NotCommittedError, UnreachableError
from common.service.control_client import CommandFailedError, ControlClient
from common.service.logging import escape
from common.service.units import parse_size


class Size(click.ParamType[int]):
    """A size as in a config file, "20GiB", or a bare number of bytes."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        text = f"{value}B" if str(value).isascii() and str(value).isdigit() else value
        try:
            return parse_size(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@volume_argument("volume")
@click.argument("size", type=Size(), metavar="SIZE")
@click.option(
    "--wait", is_flag=True, help="Return once a recovery point of this size is safe."
)
@json_option
@daemon_options
def grow(
    volume: str,
    size: int,
    wait: bool,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """Make GROUP/VOLUME SIZE large, as in 20GiB, while hosts use it.

    A file is extended; a block device has to be that large already, at both sites.
    Hosts see the new size when they connect anew. Recovery points keep the sizes
    they have. With --wait, exit code 0 means that a recovery point with the new size
    is committed at the remote, 9 that it was not.
    """
    group, name = split_volume_name(volume)
    arguments = {"group": group, "volume": name, "size_bytes": size}
    waiting = Console(stderr=True).status(_waiting_text(volume))
    with connect(socket_path, config) as client, waiting:
        growth: dict[str, Any] = client.call("grow", arguments, timeout_seconds=None)
        if not as_json:
            click.echo(_grown_text(volume, growth))
        point, why = _first_point(client, group) if wait else (None, None)
    if as_json:
        print_json({"group": group, **growth, "point": point})
    elif point is not None:
        click.echo(f"{escape(group)}: point {point} has that size, safe at the remote")
    if wait and point is None:
        raise NotCommittedError(
            f"{volume}: grown, but no recovery point of that size is committed yet: "
            f"{why}"
        )


def _first_point(
    client: ControlClient, group: str
) -> tuple[int, None] | tuple[None, str]:
    """Cut, and return the number of the point once it is safe; else why it is not.

    The volume has grown all the same: what goes wrong here never reads as if not.
    """
    arguments = {"group": group, "wait": True, "label": None}
    try:
        cut = client.call("cut", arguments, timeout_seconds=None)
    except (CommandFailedError, UnreachableError) as error:
        return None, str(error)
    if not cut["committed"]:
        return None, f"cut {cut['number']} is not"
    return cut["number"], None


def _waiting_text(volume: str) -> str:
    """Return what a terminal shows meanwhile."""
    return f"growing {escape_markup(escape(volume))} (Ctrl-C ends the wait only)"


def _grown_text(volume: str, growth: dict[str, Any]) -> str:
    before, now = growth["before_bytes"], growth["size_bytes"]
    if before == now:
        return escape(f"{volume}: has {now} bytes ({size_text(now)}) already")
    return escape(
        f"{volume}: grown from {before} to {now} bytes ({size_text(now)}); hosts see "
        "it when they connect anew"
    )
