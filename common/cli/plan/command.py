"""`farshore plan`: what a promise takes, by a change rate that was recorded."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import console, plain, print_json, seconds_text, size_text
from common.cli.doctor.storage import bitmap_bytes, known_size
from common.cli.drill_command import Span
from common.cli.grow_command import Size
from common.cli.plan.formulas import Plan, Record, Sample, Wanted, make_plan
from common.cli.plan.recorded import (
    NotRecordedError,
    read_file,
    read_history,
    record,
)
from common.errors import ConfigError
from common.service.config import load_any
from common.service.config_primary import PrimaryConfig
from common.service.config_remote import RemoteConfig
from common.service.retention_rules import RetentionRule, parse_rule
from common.service.units import parse_bandwidth
from common.storage.geometry import default_track_bytes

RPO_DEFAULT_SECONDS = 5.0


class Rule(click.ParamType[RetentionRule]):
    """A rule as `retain` has them."""

    name = "rule"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> RetentionRule:
        try:
            return parse_rule(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Rate(click.ParamType[int]):
    """Bytes a second as `bandwidth` has them."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            return parse_bandwidth(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("name", required=False)
@click.option("--record", "record_to", metavar="FILE", help="Record, and plan nothing.")
@click.option(
    "--every",
    type=Span(),
    default="5s",
    show_default=True,
    help="Between two looks, also iostat's.",
)
@click.option(
    "--for",
    "seconds",
    type=Span(),
    default="1d",
    show_default=True,
    help="How long to record.",
)
@click.option("--from", "source", metavar="FILE", help="What was recorded.")
@click.option("--rate", type=Rate(), help="Changes a second, without a record.")
@click.option("--rpo", type=Span(), help="The promise; default: the config's, or 5s.")
@click.option("--retain", type=Rule(), multiple=True, help="A rule, as in the config.")
@click.option("--size", type=Size(), help="Of all volumes; default: the config's.")
@click.option("--bandwidth", type=Rate(), help="What does a link of this rate keep?")
@click.option(
    "--wire-ratio",
    type=click.FloatRange(0.001, 2),
    help="Bytes on the wire for each changed; default: as recorded, or 1.",
)
@json_option
@daemon_options
def plan(
    name: str | None,
    record_to: str | None,
    every: float,
    seconds: float,
    source: str | None,
    rate: int | None,
    rpo: float | None,
    retain: tuple[RetentionRule, ...],
    size: int | None,
    bandwidth: int | None,
    wire_ratio: float | None,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """Say what link, room and memory a promise takes, by a recorded change rate.

    NAME is a group, or a device of an iostat record. The rate comes from --from FILE
    (of --record, of a daemon's /history.json, of iostat -o JSON), from --rate, or from
    the history that a daemon with [http] keeps: then name its --config. The formulas:
    docs/operating/sizing.md.
    """
    if record_to is not None:
        count = _record(record_to, every, seconds, (socket_path, config))
        _print_recorded(record_to, count, as_json=as_json)
        return
    loaded = None if config is None else load_any(config)
    samples = _samples(name, source, rate, every, loaded)
    group = _group(loaded, name)
    wanted = Wanted(
        rpo_seconds=rpo or getattr(group, "rpo_seconds", None) or RPO_DEFAULT_SECONDS,
        retain=retain or getattr(group, "retain", ()),
        resume_timeout_seconds=getattr(group, "resume_timeout_seconds", 600.0),
        wire_ratio=wire_ratio,
        bandwidth=bandwidth,
        **_sizes(loaded, group, size),
    )
    try:
        found = make_plan(Record(samples), wanted)
    except ValueError as error:
        raise NotRecordedError(str(error)) from None
    if as_json:
        print_json({"wanted": _wanted_json(wanted), "plan": asdict(found)})
    else:
        console().print(_table(found, wanted))


def _record(
    path: str, every: float, seconds: float, sockets: tuple[str | None, str | None]
) -> int:
    def fetch() -> dict[str, Any]:
        with connect(*sockets) as client:
            status: dict[str, Any] = client.call("status")
            return status

    return record(path, fetch, time.time, lambda: time.sleep(every), seconds)


def _print_recorded(path: str, count: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"file": path, "looks": count})
    else:
        click.echo(f"{path}: {count} looks\nto plan by it: farshore plan --from {path}")


def _samples(
    name: str | None,
    source: str | None,
    rate: int | None,
    every: float,
    loaded: PrimaryConfig | RemoteConfig | None,
) -> list[Sample]:
    if source is not None:
        return read_file(source, name, every)
    if rate is not None:
        return [Sample(1.0, float(rate))]
    if loaded is None or loaded.http is None:
        raise click.UsageError(
            "there is no change rate: name a record with --from FILE, a rate with "
            "--rate, or the --config of a daemon with [http]; to record one: farshore "
            "plan --record FILE"
        )
    return read_history(loaded.http.listen, _group(loaded, name).name)


def _group(loaded: PrimaryConfig | RemoteConfig | None, name: str | None) -> Any:
    """Return the group of the config that is meant; None without a config."""
    if loaded is None:
        return None
    found = [group for group in loaded.groups if name in {None, group.name}]
    if len(found) == 1:
        return found[0]
    names = ", ".join(group.name for group in loaded.groups)
    raise ConfigError(f"which group is meant? Name one of: {names}")


def _sizes(loaded: Any, group: Any, size: int | None) -> dict[str, int]:
    """Return bytes of the volumes, of their bitmaps, and what hosts have in flight."""
    if loaded is None:
        volumes = size or 0
        bitmaps = volumes // default_track_bytes(max(volumes, 512)) // 8
        return {"volume_bytes": volumes, "bitmap_bytes": bitmaps}
    alone = loaded.model_copy(update={"groups": (group,)})
    return {
        "volume_bytes": size or sum(known_size(each) or 0 for each in group.volumes),
        "bitmap_bytes": bitmap_bytes(alone),
        "in_flight_bytes": loaded.nbd.limits.daemon_bytes_in_flight_max,
    }


def _wanted_json(wanted: Wanted) -> dict[str, Any]:
    return asdict(wanted) | {"retain": [str(rule) for rule in wanted.retain]}


def _table(found: Plan, wanted: Wanted) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_column()
    for what, value, why in _rows(found, wanted):
        table.add_row(plain(what), plain(value, "bold"), plain(why, "dim"))
    return table


def _rows(found: Plan, wanted: Wanted) -> list[tuple[str, str, str]]:
    rows = [
        ("recorded", seconds_text(found.recorded_seconds), ""),
        ("changes", f"{size_text(found.mean_changed_rate)}/s", "mean"),
        ("", f"{size_text(found.peak_changed_rate)}/s", "peak, over half the promise"),
        ("on the wire", f"{found.wire_ratio:.3f}", "for each byte changed"),
        ("promise", seconds_text(wanted.rpo_seconds), "age of a recovery point"),
        ("link", f"{size_text(found.link_rate)}/s", "keeps it at the peak"),
        ("FlashCopy targets", size_text(found.targets_bytes), "room at the primary"),
        ("journal.limit", size_text(found.journal_bytes), "room at the remote"),
        ("memory", size_text(found.primary_memory_bytes), "at the primary"),
        ("", size_text(found.remote_memory_bytes), "at the remote"),
    ]
    if wanted.bandwidth is not None:
        reached = found.rpo_reached_seconds
        link = f"over {size_text(wanted.bandwidth)}/s"
        kept = "none: changes pile up" if reached is None else seconds_text(reached)
        rows.append(("promise that is kept", kept, link))
        rows.append(("first copy", seconds_text(found.first_copy_seconds), link))
    return rows
