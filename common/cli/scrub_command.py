"""`farshore scrub`: what recovery would read, read back from the remote's disks."""

from __future__ import annotations

import time

import click
from rich.console import RenderableType

from common.cli.daemon_options import connect
from common.cli.display import size_text
from common.cli.long_jobs import (
    Report,
    arguments_of,
    job_options,
    show,
    wait_for_end,
)
from common.cli.named_on_site import group_argument
from common.cli.progress_view import Shrinking, progress_row
from common.errors import FoundDifferentError, IncompleteError
from common.service.logging import escape


@click.command()
@group_argument
@job_options("Bytes read in a second, at most.")
def scrub(
    group: str,
    rate: str,
    no_wait: bool,
    report: bool,
    stop: bool,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """Read back the journals and devices of GROUP at this receiving site.

    Ctrl-C ends the wait, not the scrub. Exit code 12 means that something could not
    be read back, and file and offset are named; 13 that it ended early.
    """
    arguments = arguments_of(group, report=report, stop=stop, start={"rate": rate})

    left = Shrinking()

    def progress(seen: Report) -> RenderableType:
        read, total = seen["read_bytes"], seen["total_bytes"]
        left.see(total - read, time.monotonic())
        eta = left.eta_seconds(time.monotonic())
        return progress_row(f"scrubbing {group}", read, total, eta)

    with connect(socket_path, config) as client:
        found: Report | None = client.call("scrub", arguments)
        if not (report or stop or no_wait):
            found = wait_for_end(client, "scrub", group, progress)
    show("scrub", group, found, _text, as_json=as_json)
    if found is not None and not stop:
        _raise_for(group, found)


def _text(group: str, found: Report) -> str:
    read, total = size_text(found["read_bytes"]), size_text(found["total_bytes"])
    lines = [f"{group}: {found['result'] or 'under way'}: {read} of {total} read back"]
    if found["reason"]:
        lines[0] += f"; {found['reason']}"
    lines += [
        f"  {each['file']} at byte {each['offset']}: {each['reason']}"
        for each in found["findings"]
    ]
    return "\n".join(escape(line) for line in lines)


def _raise_for(group: str, found: Report) -> None:
    """End with the exit code of what was found."""
    if found["findings"]:
        raise FoundDifferentError(f"{group}: not all could be read back")
    if found["result"] in {"failed", "stopped"}:
        raise IncompleteError(f"{group}: the scrub did not end: {found['reason']}")
