"""`farshore drill`: does what is at the remote work? Try it, and keep the answer."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import console, plain, print_json, seconds_text
from common.cli.named_on_site import group_argument
from common.cli.probes import Ended, environment, run_probe, signals_interrupt
from common.errors import DrillFailedError, FarshoreError
from common.service.control_client import ControlClient
from common.service.drill_status import (
    PROBE_CHARACTERS_MAX,
    REASON_CHARACTERS_MAX,
    DrillReport,
    DrillVerdict,
)
from common.service.logging import escape
from common.service.units import parse_seconds

TIMEOUT_DEFAULT = "30m"


class Span(click.ParamType[float]):
    """A time as in a config file, "90s" or "10m"."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return parse_seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@group_argument
@click.option("--probe", metavar="SCRIPT", help="What tells whether the copy is good.")
@click.option("--point", type=int, help="The recovery point; default: the newest.")
@click.option(
    "--timeout",
    type=Span(),
    default=TIMEOUT_DEFAULT,
    show_default=True,
    help="How long the probe may take.",
)
@click.option("--list", "is_list", is_flag=True, help="Show the last drills.")
@json_option
@daemon_options
def drill(
    group: str,
    probe: str | None,
    point: int | None,
    timeout: float,
    is_list: bool,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """Try a recovery point of GROUP: start a test copy, run a probe on it, stop it.

    The probe finds the NBD URIs of the volumes in its environment, as FARSHORE_URIS and
    FARSHORE_URI_VOLUME. Its exit code 0 means that the copy is good. The drill is kept
    by the daemon and shown by `farshore status`. Exit code 14: it did not pass.
    """
    if is_list == (probe is not None):
        raise click.UsageError("give --probe SCRIPT, or --list")
    with connect(socket_path, config) as client:
        if is_list:
            _show_list(group, client, as_json=as_json)
            return
        assert probe is not None
        with signals_interrupt():
            report = _drill(client, group, probe, point, timeout, as_json=as_json)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(_text(group, report))
    if report.verdict is DrillVerdict.INTERRUPTED:
        raise KeyboardInterrupt
    if report.verdict is not DrillVerdict.PASSED:
        raise DrillFailedError(f"{group}: the drill did not pass: {report.reason}")


def _drill(
    client: ControlClient,
    group: str,
    probe: str,
    point: int | None,
    timeout: float,
    *,
    as_json: bool,
) -> DrillReport:
    """Carry out a drill and have it recorded, whatever becomes of it."""
    started_ns, began = time.time_ns(), time.monotonic()
    path = str(Path(probe).absolute())
    known: dict[str, Any] = {
        "started_ns": started_ns,
        "probe": path[-PROBE_CHARACTERS_MAX:],
    }
    arguments = {
        "group": group,
        "action": "start",
        "name": f"drill-{started_ns // 10**9}-{os.getpid()}",
        "point": point,
    }
    try:
        (copy,) = client.call("test-copy", arguments)
    except FarshoreError as error:
        reason = str(error)[:REASON_CHARACTERS_MAX]
        known |= {"verdict": DrillVerdict.NOT_STARTED, "reason": reason}
        return _recorded(client, group, known)
    cut_ns = int(datetime.fromisoformat(copy["cut_time"]).timestamp() * 1e6) * 1000
    known |= {
        "point": copy["point"],
        "cut_ns": cut_ns,
        "age_seconds": max(0.0, (started_ns - cut_ns) / 1e9),
        "start_seconds": time.monotonic() - began,
    }
    try:
        ended = _probed(path, environment(group, copy), timeout, to_stderr=as_json)
    finally:
        # Also where the probe could not be run, or Ctrl-C came between.
        stopping = time.monotonic()
        stop = {"group": group, "action": "stop", "name": copy["name"]}
        client.call("test-copy", stop, timeout_seconds=None)
    known |= {
        "verdict": ended.verdict,
        "reason": ended.reason[:REASON_CHARACTERS_MAX],
        "exit_code": ended.exit_code,
        "probe_seconds": ended.seconds,
        "stop_seconds": time.monotonic() - stopping,
    }
    return _recorded(client, group, known)


def _probed(
    path: str, told: dict[str, str], timeout: float, *, to_stderr: bool
) -> Ended:
    try:
        return run_probe([path], told, timeout, to_stderr=to_stderr)
    except FarshoreError as error:
        return Ended(DrillVerdict.FAILED, str(error), None, 0.0)


def _recorded(client: ControlClient, group: str, known: dict[str, Any]) -> DrillReport:
    report = DrillReport(**known)
    drill = report.model_dump() | {"verdict": str(report.verdict)}
    client.call("drill", {"group": group, "action": "record", "drill": drill})
    return report


def _text(group: str, report: DrillReport) -> str:
    if report.point is None:
        return escape(f"{group}: {report.verdict.replace('_', ' ')}: {report.reason}")
    told = f"{group}: point {report.point}, {seconds_text(report.age_seconds)} old: "
    told += report.verdict.replace("_", " ")
    if report.reason:
        told += f": {report.reason}"
    start, probe = (
        seconds_text(report.start_seconds),
        seconds_text(report.probe_seconds),
    )
    stop = seconds_text(report.stop_seconds)
    times = f"  test copy started in {start}, probe {probe}, ended in {stop}"
    return f"{escape(told)}\n{escape(times)}"


def _show_list(group: str, client: ControlClient, *, as_json: bool) -> None:
    drills = client.call("drill", {"group": group, "action": "list"})
    if as_json:
        print_json(drills)
    elif not drills:
        click.echo(f"{group}: no drill yet\nto hold one: farshore drill --help")
    else:
        console().print(_table(drills))


def _table(drills: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in (
        "STARTED",
        "VERDICT",
        "POINT",
        "AGE",
        "TOOK",
        "PROBE",
        "REASON",
    ):
        table.add_column(title, header_style="dim")
    for each in drills:
        style = "green" if each["verdict"] == "passed" else "bold red"
        table.add_row(
            plain(each["started"]),
            plain(each["verdict"].replace("_", " "), style),
            plain("-" if each["point"] is None else each["point"]),
            plain(seconds_text(each["age_seconds"])),
            plain(seconds_text(each["probe_seconds"])),
            plain(Path(each["probe"]).name),
            plain(each["reason"]),
        )
    return table
