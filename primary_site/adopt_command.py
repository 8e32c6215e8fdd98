"""`farshore adopt`: give a primary that has lost its state the identity it had."""

from __future__ import annotations

from typing import TextIO

import click
from pydantic import ValidationError

from common.cli.asking import ask_first
from common.cli.daemon_options import json_option
from common.cli.display import print_json
from common.cli.named_on_site import group_argument
from common.errors import ConfigError, RefusedError
from common.service.config import load_primary
from common.service.group_identity import GroupIdentity
from common.service.logging import escape
from common.storage.files import SystemFiles
from primary_site.adopting import adopt as adopt_group


@click.command()
@group_argument
@click.option(
    "--identity",
    required=True,
    type=click.File(),
    help="What `farshore identity GROUP --json` told at the remote.",
)
@click.option("--config", required=True, metavar="FILE", help="This primary's config.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def adopt(group: str, identity: TextIO, config: str, yes: bool, as_json: bool) -> None:
    """Take up GROUP at a primary that has lost its state but not its devices.

    With farshore-primary stopped. All of the devices is compared with the remote, and
    what differs is sent: nothing is copied that is there. Recovery points stay. Where
    the remote has taken over, this site comes back superseded, and `farshore failback`
    receives what differs; a new site may take a lost one's place so.
    """
    loaded = load_primary(config)
    found = next((each for each in loaded.groups if each.name == group), None)
    if found is None:
        raise ConfigError(f"{config}: no group {group!r}: name one that it has")
    try:
        told = GroupIdentity.model_validate_json(identity.read())
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        raise RefusedError(
            f"{identity.name}: no identity: {details['msg']}; at the remote: farshore "
            f"identity {group} > FILE"
        ) from None
    if not yes:
        ask_first(_question(told))
    adopt_group(SystemFiles(), loaded, found, told)
    if as_json:
        print_json({"group": group, "point": told.point and told.point.number})
    else:
        click.echo(escape(f"{group}: taken up {_taken_up(told)}"))


def _point(told: GroupIdentity) -> str:
    return f"point {told.point.number}" if told.point else "no point"


def _question(told: GroupIdentity) -> str:
    if told.served is not None:
        return (
            f"{told.group} is served by the other site, in lineage "
            f"{told.served.lineage}. This site comes back superseded: hosts may not "
            "write here, and nothing is overwritten before farshore failback "
            f"{told.group}.\nIs this the site that is to receive it, and the only one?"
        )
    return (
        f"The next recovery point of {told.group}, after {_point(told)}, will be what "
        "the devices of this site hold now.\nIs this the primary, and the only one?"
    )


def _taken_up(told: GroupIdentity) -> str:
    if told.served is not None:
        return (
            "as superseded by the other site; to receive from there: start "
            f"farshore-primary, then farshore failback {told.group}"
        )
    return f"from {_point(told)}; to go on: start farshore-primary"
