"""`farshore verify`: both sites compared, while replication goes on."""

from __future__ import annotations

import click
from rich.console import Group, RenderableType

from common.cli.daemon_options import connect
from common.cli.display import plain, seconds_text, size_text
from common.cli.long_jobs import (
    Report,
    arguments_of,
    job_options,
    show,
    wait_for_end,
)
from common.cli.named_on_site import group_argument
from common.cli.progress_view import progress_row
from common.errors import FoundDifferentError, IncompleteError
from common.service.logging import escape

RANGES_SHOWN_MAX = 50


@click.command()
@group_argument
@click.option(
    "--repair", is_flag=True, help="Have what differs sent with the next cut."
)
@job_options("Bytes read in a second at each site, at most.")
def verify(
    group: str,
    repair: bool,
    rate: str,
    no_wait: bool,
    report: bool,
    stop: bool,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """Compare GROUP with its copy at the remote, while replication goes on.

    Run it at the sending site. Ctrl-C ends the wait, not the verify. Exit code 12
    means that something differs or can't be read, and the ranges are named; 13 that
    it ended early.
    """
    arguments = arguments_of(
        group, report=report, stop=stop, start={"repair": repair, "rate": rate}
    )

    def progress(seen: Report) -> RenderableType:
        bar = progress_row(
            f"verifying {group}",
            seen["compared_bytes"],
            seen["total_bytes"],
            seen["eta_seconds"],
        )
        differ = f"{size_text(seen['differing_bytes'])} differ; " * bool(
            seen["differing_bytes"]
        )
        return Group(bar, plain(f"{differ}Ctrl-C ends the wait, not the verify"))

    with connect(socket_path, config) as client:
        found: Report | None = client.call("verify", arguments)
        if not (report or stop or no_wait):
            found = wait_for_end(client, "verify", group, progress)
    show("verify", group, found, _text, as_json=as_json)
    if found is not None and not stop:
        _raise_for(group, found)


def _progress_text(group: str, found: Report) -> str:
    done, total = found["compared_bytes"], found["total_bytes"]
    text = f"verifying {group}: {size_text(done)} of {size_text(total)}"
    if found["eta_seconds"] is not None:
        text += f", ETA {seconds_text(found['eta_seconds'])}"
    if found["differing_bytes"]:
        text += f", {size_text(found['differing_bytes'])} differ"
    return f"{text} (Ctrl-C ends the wait, not the verify)"


def _text(group: str, found: Report) -> str:
    if found["result"] is None:
        return escape(_progress_text(group, found))
    compared, total = found["compared_bytes"], found["total_bytes"]
    lines = [f"{group}: {found['result']}: {size_text(compared)} of {size_text(total)}"]
    lines[0] += f" compared, {size_text(found['differing_bytes'])} differ"
    if found["reason"]:
        lines[0] += f"; {found['reason']}"
    for kind in ("differing", "unreadable"):
        lines += [
            f"  {kind}: {group}/{each['volume']} offset {each['offset']} length "
            f"{each['length']}" + (f": {each['reason']}" if "reason" in each else "")
            for each in found[kind][:RANGES_SHOWN_MAX]
        ]
        more = len(found[kind]) - RANGES_SHOWN_MAX
        if more > 0:
            lines.append(f"  and {more} more: see --json")
    if found["result"] == "repairing":
        lines.append(
            f"the next cycle sends what differs; then: farshore verify {group}"
        )
    elif found["differing_bytes"]:
        lines.append(f"to have it sent: farshore verify {group} --repair")
    return "\n".join(escape(line) for line in lines)


def _raise_for(group: str, found: Report) -> None:
    """End with the exit code of what was found."""
    if found["differing"] or found["unreadable"]:
        raise FoundDifferentError(f"{group}: the two sites are not equal")
    if found["result"] in {"failed", "stopped"}:
        raise IncompleteError(f"{group}: the verify did not end: {found['reason']}")
