"""`farshore volume`: add a volume to a group, or remove one, while hosts write."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.markup import escape as escape_markup

from common.cli.asking import ask_first
from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import print_json, size_text
from common.cli.named_on_site import volume_argument
from common.cli.volume_name import split_volume_name
from common.service.logging import escape


@click.group()
def volume() -> None:
    """Add a volume to a group, or remove one, while hosts write to the others."""


@volume.command()
@click.argument("name", metavar="GROUP/VOLUME")
@json_option
@daemon_options
def add(name: str, as_json: bool, socket_path: str | None, config: str | None) -> None:
    """Add GROUP/VOLUME, as both sites' configs have it by now; where it is sent.

    Write its [[group.volume]] into the configs of both sites first; nobody need be
    restarted. Hosts may use it once this returns. Its first copy goes beside the
    group's cycles; recovery points have it from the one on that completes the copy.
    """
    group, volume_name = split_volume_name(name)
    arguments = {"group": group, "action": "add", "volume": volume_name}
    with connect(socket_path, config) as client, _waiting(f"adding {name}"):
        done: dict[str, Any] = client.call("volume", arguments, timeout_seconds=None)
    if as_json:
        print_json(done)
        return
    size = size_text(done["size_bytes"])
    click.echo(
        escape(
            f"{name}: added, {size}; hosts may use it. Recovery points have it once "
            "its first copy is complete: see farshore status"
        )
    )


@volume.command()
@volume_argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@daemon_options
def remove(
    name: str, yes: bool, as_json: bool, socket_path: str | None, config: str | None
) -> None:
    """Remove GROUP/VOLUME from its group; at the site that sends it.

    Its export ends, and recovery points from now on do not have it; those of before
    serve it on, until they are dropped. Its devices are left as they are, at both
    sites. It says what it does and asks, unless told --yes.
    """
    group, volume_name = split_volume_name(name)
    arguments: dict[str, Any] = {"group": group, "volume": volume_name}
    with connect(socket_path, config) as client:
        plan: dict[str, Any] = client.call("volume", {**arguments, "action": "plan"})
        for sentence in removal_sentences(name, plan):
            click.echo(escape(sentence), err=True)
        if not yes:
            ask_first(f"Remove {escape(name)} now?")
        arguments |= {"action": "remove", "cut_off": True}
        with _waiting(f"removing {name}"):
            done: dict[str, Any] = client.call(
                "volume", arguments, timeout_seconds=None
            )
    if as_json:
        print_json(done)
        return
    click.echo(
        escape(
            f"{name}: removed. Delete its [[group.volume]] in both configs; a site "
            "with recovery points of it needs its device until the last one is dropped"
        )
    )


def removal_sentences(name: str, plan: dict[str, Any]) -> list[str]:
    """Return what an operator has to know before saying yes."""
    size = size_text(plan["size_bytes"])
    told = [f"{name} ({size}) leaves its group: it is not replicated any more"]
    if plan["hosts"]:
        told.append(f"{plan['hosts']} connections of hosts to it are cut off")
    if plan["is_joining"]:
        told.append("its first copy is given up: no recovery point has it")
    else:
        told.append(
            "recovery points from now on do not have it; those of before keep it, and "
            "none of them says what its hosts write from here on"
        )
    told.append(f"its device, {plan['device']}, is left as it is")
    return told


def _waiting(text: str) -> Any:
    """Return what a terminal shows meanwhile."""
    shown = f"{escape_markup(escape(text))} (Ctrl-C ends the wait only)"
    return Console(stderr=True).status(shown)
