"""`farshore doctor`: look at everything that a site rests on, and say what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import console, plain, print_json
from common.cli.doctor.access import (
    check_certificates,
    check_control_socket,
    check_file,
    check_hooks,
)
from common.cli.doctor.daemon import check_status, daemon_pid
from common.cli.doctor.findings import Finding, Verdict, failed, fine, unknown
from common.cli.doctor.host import (
    Config,
    check_clock,
    check_files,
    check_memory,
    check_versions,
)
from common.cli.doctor.link import check_links
from common.cli.doctor.storage import (
    bitmap_bytes,
    check_device,
    check_room,
    known_size,
)
from common.cli.plan.formulas import memory_bytes
from common.errors import ConfigError, UnreachableError, UnwellError
from common.service.config import load_any
from common.service.config_common import all_volumes
from common.service.config_primary import PrimaryConfig

DEFAULT_CONFIGS = ("/etc/farshore/primary.toml", "/etc/farshore/remote.toml")

STYLES = {
    Verdict.OK: "green",
    Verdict.UNKNOWN: "dim",
    Verdict.WARNING: "yellow",
    Verdict.FAILED: "bold red",
}


@click.command()
@json_option
@daemon_options
def doctor(as_json: bool, socket_path: str | None, config: str | None) -> None:
    """Look at what this site rests on, and say what to do: changes nothing.

    Config, devices, room, clock, limits, permissions, certificates, the way to the
    other site, versions; with the daemon running or not. Without --config the files in
    /etc/farshore are looked at. Exit code 15: something must be mended.
    """
    with Console(stderr=True).status("looking"):
        found = examine(socket_path, config)
    if as_json:
        print_json([finding.to_json() for finding in found])
    else:
        console().print(_table(found))
    counts = Counter(finding.verdict for finding in found)
    if counts[Verdict.FAILED]:
        raise UnwellError(
            f"{counts[Verdict.FAILED]} of {len(found)} must be mended, and "
            f"{counts[Verdict.WARNING]} be looked at"
        )


def examine(socket_path: str | None, config: str | None) -> list[Finding]:
    """Return what there is to say, in an order in which to read it."""
    loaded, found = _config(config)
    status, told = _status(socket_path, config if loaded is not None else None)
    found += told
    if loaded is not None:
        found += _of_config(loaded, status)
    found += check_links(loaded, status)
    found += check_clock()
    found += check_versions()
    return found


def _config(path: str | None) -> tuple[Config | None, list[Finding]]:
    if path is None:
        present = [each for each in DEFAULT_CONFIGS if Path(each).exists()]
        if len(present) != 1:
            why = "none" if not present else "two"
            text = f"{why} of {' and '.join(DEFAULT_CONFIGS)} is there"
            return None, [unknown("config", "file", text, "name it: --config FILE")]
        path = present[0]
    try:
        loaded = load_any(path)
    except ConfigError as error:
        return None, [failed("config", path, str(error), "mend the file")]
    kind = "primary" if isinstance(loaded, PrimaryConfig) else "remote"
    text = f"a valid {kind} config, {_counted(len(loaded.groups))}"
    return loaded, [
        fine("config", path, text),
        check_file("config", Path(path).absolute()),
    ]


def _counted(groups: int) -> str:
    return "1 group" if groups == 1 else f"{groups} groups"


def _status(
    socket_path: str | None, config: str | None
) -> tuple[dict[str, Any] | None, list[Finding]]:
    try:
        with connect(socket_path, config) as client:
            status: dict[str, Any] = client.call("status")
    except (UnreachableError, click.UsageError) as error:
        text = f"no daemon was asked: {error}"
        return None, [unknown("daemon", "control socket", text)]
    return status, list(check_status(status))


def _of_config(config: Config, status: dict[str, Any] | None) -> Iterator[Finding]:
    for name, volume in all_volumes(config.groups):
        yield from check_device(
            name,
            volume.device,
            known_size(volume),
            is_served=status is not None,
        )
    yield from check_room(config)
    control = config.site.control_socket
    pid = daemon_pid(control) if status is not None else None
    yield from check_files(config, pid)
    in_flight = config.nbd.limits.daemon_bytes_in_flight_max
    yield from check_memory(memory_bytes(bitmap_bytes(config), in_flight))
    if status is not None:
        yield check_control_socket(control)
    if isinstance(config, PrimaryConfig):
        yield from check_hooks(config)
    yield from check_certificates(config)


def _table(found: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "LOOKED AT", "OF", "FOUND"):
        table.add_column(title, header_style="dim")
    for finding in found:
        said = plain(finding.text)
        if finding.remedy:
            said.append("\n→ ").append_text(plain(finding.remedy, "bold"))
        table.add_row(
            plain(finding.verdict, STYLES[finding.verdict]),
            plain(finding.topic),
            plain(finding.subject),
            said,
        )
    return table
