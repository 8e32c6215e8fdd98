"""`farshore takeover`: go on from a recovery point at the remote, after a disaster."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.markup import escape as escape_markup

from common.cli.asking import ask_first
from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import print_json
from common.cli.named_on_site import group_argument
from common.service.logging import escape


@click.command()
@group_argument
@click.option(
    "--point",
    type=click.IntRange(min=1),
    metavar="N",
    help="The point to go on from; by default the newest.",
)
@click.option(
    "--force", is_flag=True, help="Also while the sending site is connected and well."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@daemon_options
def takeover(
    group: str,
    point: int | None,
    force: bool,
    yes: bool,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """Serve GROUP from this site: at the remote, when the sending site is lost.

    The volumes go back to a recovery point, and hosts may write to GROUP/VOLUME here
    from then on. The sending site is refused from that moment, whatever happens; what
    it wrote after the point is not here. It says what is lost and asks, unless told
    --yes. Returns once hosts may write; Ctrl-C ends the wait, not the takeover.
    """
    arguments = {"group": group, "point": point, "force": force}
    with connect(socket_path, config) as client:
        plan: dict[str, Any] = client.call("takeover", {**arguments, "action": "plan"})
        for sentence in plan["sentences"]:
            click.echo(escape(sentence), err=True)
        if not (yes or plan["has_begun"]):
            ask_first(f"Take over {escape(group)} now?")
        waiting = Console(stderr=True).status(_waiting_text(group))
        with waiting:
            done: dict[str, Any] = client.call(
                "takeover", {**arguments, "action": "start"}, timeout_seconds=None
            )
    if as_json:
        print_json(done)
        return
    base = f"taken over from point {done['point']}, cut at {done['cut_time']}"
    if done.get("is_reclaimed"):
        base = f"goes on here from this site's data; common is point {done['point']}"
    click.echo(
        escape(
            f"{group}: {base}; hosts may write to {group}/VOLUME here\n"
            f"lineage {done['lineage']}, from {done['parent']}\n"
            "to see it: farshore status",
            keep_lines=True,
        )
    )


def _waiting_text(group: str) -> str:
    """Return what a terminal shows meanwhile."""
    name = escape_markup(escape(group))
    return f"taking over {name} (Ctrl-C ends the wait, not the takeover)"
