"""`farshore identity`: who the remote takes a group's primary to be."""

from __future__ import annotations

import click

from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import print_json
from common.cli.named_on_site import group_argument


@click.command()
@group_argument
@json_option
@daemon_options
def identity(
    group: str, as_json: bool, socket_path: str | None, config: str | None
) -> None:
    """Tell who the primary of GROUP is, for one that has lost its state.

    At the receiving site; `farshore adopt` takes it at the sending one. It is JSON in
    any case.
    """
    del as_json
    with connect(socket_path, config) as client:
        print_json(client.call("identity", {"group": group}))
