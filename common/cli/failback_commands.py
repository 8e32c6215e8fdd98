"""`farshore failback`, `switchover` and `forks`: the way back after a takeover."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import click
from rich.table import Table

from common.cli.asking import ask_first
from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import (
    NARROW_COLUMNS,
    console,
    plain,
    print_json,
    size_text,
)
from common.cli.drain_shown import drain_shown
from common.cli.named_on_site import group_argument
from common.errors import RefusedError
from common.service.control_client import ControlClient
from common.service.logging import escape


@click.command()
@group_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@daemon_options
def failback(
    group: str, yes: bool, as_json: bool, socket_path: str | None, config: str | None
) -> None:
    """Receive GROUP at this site again: at the old primary, after a takeover.

    What this site has written and the other one has not is kept as a fork, and then
    overwritten on its devices by what either side has changed since the common point.
    The other site serves hosts meanwhile; `farshore switchover` there returns the
    roles. Hosts of GROUP that are connected here are cut off.
    """
    with connect(socket_path, config) as client:
        status: dict[str, Any] = client.call("status", {})
        if not yes:
            _check_may_fail_back(group, status)
        for sentence in _given_up(group, status):
            click.echo(escape(sentence), err=True)
        question = None if yes else f"Fail {group} back now?"
        text = f"failing back {group} (Ctrl-C ends the wait only)"
        waiting = drain_shown(group, text, (socket_path, config))
        done = _carried_out(client, "failback", group, question, waiting)
    if as_json:
        print_json(done)
        return
    click.echo(
        escape(
            f"{group}: received from now on, in lineage {done['lineage']}\n"
            f"what this site alone had is fork {done['fork']}: {group}/VOLUME@"
            f"{done['fork']}, read-only, until farshore forks delete {group} "
            f"{done['fork']}\n"
            f"to see it catch up, at the other site: farshore status --watch\n"
            f"once that shows a newer recovery point, at the other site: "
            f"farshore switchover {group}",
            keep_lines=True,
        )
    )


def _check_may_fail_back(group: str, status: dict[str, Any]) -> None:
    """Raise `RefusedError` before a question that the daemon would answer with no."""
    for each in status["groups"]:
        if each["name"] != group or each.get("role_change") is not None:
            continue
        if each["role"] == "receiving":
            raise RefusedError(
                f"failback: this site receives group {group!r} already; the command is "
                "for a site that another one has taken over from"
            )
        raise RefusedError(
            f"group {group} is served here, and no other site is known to have taken "
            "it over: there is nothing to fail back to; see farshore status at both "
            "sites"
        )


def _given_up(group: str, status: dict[str, Any]) -> list[str]:
    """Say what a failback overwrites here, as far as it is known."""
    for each in status["groups"]:
        if each["name"] == group:
            changed = each["changed_bytes"]
            size = "unknown" if changed is None else size_text(changed)
            sentence = (
                f"{group}: this site gives up what it wrote in lineage "
                f"{each['lineage']}, {size} at most beside what the other site has; "
                "it stays as a fork, until you delete that"
            )
            return [sentence]
    return []


@click.command()
@group_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@daemon_options
def switchover(
    group: str, yes: bool, as_json: bool, socket_path: str | None, config: str | None
) -> None:
    """Exchange the roles of GROUP's sites: at the one that sends, losing nothing.

    Hosts' writes here are refused from now on, a last cycle brings the other site all
    that they wrote, and it serves GROUP from then on; this site receives. Until the
    other site has everything, a failure leaves hosts as they were.
    """
    question = (
        f"Hosts of {group} can't write here any more, and are cut off: exchange the "
        "roles now?"
    )
    with connect(socket_path, config) as client:
        if not yes:
            _check_may_switch_over(group, client.call("status", {}))
        asked = None if yes else question
        text = f"handing {group} over (Ctrl-C ends the wait only)"
        waiting = drain_shown(group, text, (socket_path, config))
        done = _carried_out(client, "switchover", group, asked, waiting)
    if as_json:
        print_json(done)
        return
    click.echo(
        escape(
            f"{group}: the other site serves it now, in lineage {done['lineage']}; "
            "this one receives\nto see it: farshore status, at both sites",
            keep_lines=True,
        )
    )


def _check_may_switch_over(group: str, status: dict[str, Any]) -> None:
    """Raise `RefusedError` before a question that the daemon would answer with no."""
    for each in status["groups"]:
        if each["name"] != group:
            continue
        if each["role"] == "receiving":
            raise RefusedError(
                f"switchover: this site receives group {group!r}; run the command at "
                "the other site"
            )
        if each["link"]["state"] != "connected":
            raise RefusedError(
                f"group {group} has no link to its remote now "
                f"({each['link']['state']}); see farshore status"
            )


def _carried_out(
    client: ControlClient,
    command: str,
    group: str,
    question: str | None,
    waiting: AbstractContextManager[None],
) -> dict[str, Any]:
    """Ask, unless `question` is None, and wait until a change of roles is done."""
    if question is not None:
        ask_first(escape(question))
    with waiting:
        done: dict[str, Any] = client.call(
            command, {"group": group}, timeout_seconds=None
        )
    return done


@click.group()
def forks() -> None:
    """What a site wrote and gave up: kept by `farshore failback`, until deleted."""


@forks.command("list")
@group_argument
@json_option
@daemon_options
def list_forks(
    group: str, as_json: bool, socket_path: str | None, config: str | None
) -> None:
    """List the forks of GROUP that are kept at this site, oldest first."""
    arguments = {"group": group, "action": "list"}
    with connect(socket_path, config) as client:
        found: list[dict[str, Any]] = client.call("forks", arguments)
    if as_json:
        print_json(found)
    elif not found:
        click.echo(f"{escape(group)}: no fork is kept here")
    else:
        screen = console()
        screen.print(_table(found, is_wide=screen.width >= NARROW_COLUMNS))


def _table(found: list[dict[str, Any]], *, is_wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("FORK", justify="right")
    table.add_column("KEPT AT")
    table.add_column("LINEAGE")
    table.add_column("BYTES", justify="right")
    if is_wide:
        table.add_column("EXPORTS")
    for fork in found:
        table.add_row(
            plain(fork["number"], "bold"),
            plain(fork["kept_at"]),
            plain(fork["lineage"]),
            plain(size_text(fork["bytes"])),
            *((plain(" ".join(fork["exports"])),) if is_wide else ()),
        )
    return table


@forks.command("delete")
@group_argument
@click.argument("number", type=click.IntRange(min=0))
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@daemon_options
def delete_fork(
    group: str,
    number: int,
    yes: bool,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """Delete fork NUMBER of GROUP: what was written there is then nowhere any more.

    Its room is given back at once, unless somebody reads it.
    """
    arguments = {"group": group, "action": "delete", "number": number}
    with connect(socket_path, config) as client:
        kept = client.call("forks", {"group": group, "action": "list"})
        if not yes and any(fork["number"] == number for fork in kept):
            ask_first(
                f"Delete fork {number} of {escape(group)}, the only copy of what it "
                "holds?"
            )
        left: list[dict[str, Any]] = client.call("forks", arguments)
    if as_json:
        print_json(left)
    else:
        click.echo(f"{escape(group)}: fork {number} is kept no longer")
