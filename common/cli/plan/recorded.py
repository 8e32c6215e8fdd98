"""A change rate that was recorded: by `--record`, by a daemon's history, by iostat."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.addresses import TcpAddress
from common.cli.plan.formulas import Sample
from common.errors import FarshoreError

FILE_BYTES_MAX = 256 << 20
HTTP_SECONDS = 10.0

Totals = tuple[float, float, float]
"""A moment in seconds; bytes changed and bytes on the wire up to then."""


class NotRecordedError(FarshoreError):
    """The operator must name another record: this one holds nothing to plan by."""


def read_file(path: str, name: str | None, every_seconds: float) -> list[Sample]:
    """Return the samples of a file, of the group or device called `name`.

    Without a name: of the only group, of all devices together. `every_seconds` lie
    between two of iostat's looks. Raises `NotRecordedError`.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise NotRecordedError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > FILE_BYTES_MAX:
        raise NotRecordedError(f"{path}: larger than 256 MiB: name a record")
    try:
        return list(samples(content.decode(), name, every_seconds))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise NotRecordedError(
            f"{path}: no record of farshore plan --record, no history.json of a "
            "daemon, and not what iostat -o JSON prints"
        ) from None


def read_history(address: TcpAddress, group: str) -> list[Sample]:
    """Return what a daemon keeps of a group, over HTTP."""
    connection = http.client.HTTPConnection(
        address.host, address.port, timeout=HTTP_SECONDS
    )
    try:
        connection.request("GET", f"/history.json?group={quote(group)}")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except OSError as error:
        raise NotRecordedError(
            f"{address}: no daemon answers over HTTP ({error.strerror or error}): "
            "start it, or name a record with --from FILE"
        ) from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise NotRecordedError(f"{address}: {text.strip()[:200]}")
    return list(between(_history(json.loads(text))))


def samples(text: str, name: str | None, every_seconds: float) -> Iterator[Sample]:
    """Take any of the three forms apart; raises what a wrong form makes."""
    lines = text.strip().splitlines()
    if lines and "time_seconds" in lines[0] and "groups" in lines[0]:
        return between(_recorded([json.loads(line) for line in lines], name))
    found = json.loads(text)
    if "fields" in found:
        return between(_history(found))
    looks = found["sysstat"]["hosts"][0]["statistics"]
    return _iostat(looks, name, every_seconds)


def between(totals: Sequence[Totals]) -> Iterator[Sample]:
    """Return what happened between moments; a restart begins to count anew."""
    for (earlier, changed, wire), (later, more, wire_then) in pairwise(totals):
        if later > earlier:
            if more < changed:
                changed = wire = 0.0
            yield Sample(later - earlier, more - changed, max(0.0, wire_then - wire))


def _recorded(lines: list[dict[str, Any]], name: str | None) -> list[Totals]:
    if name is None:
        (name,) = lines[0]["groups"]
    return [
        (line["time_seconds"], float(told["changed"]), float(told["wire"]))
        for line in lines
        if (told := line["groups"].get(name)) is not None
    ]


def _history(found: dict[str, Any]) -> list[Totals]:
    """Take the coarse ring up to where the fine one begins."""
    wanted = ("time_seconds", "total_changed_bytes", "total_wire_bytes")
    places = [found["fields"].index(field) for field in wanted]
    rings = []
    for ring in ("coarse", "fine"):
        columns = [found[ring][place] for place in places]
        rows = zip(*columns, strict=True)
        rings.append([row for row in rows if None not in row])
    coarse, fine = rings
    begins = fine[0][0] if fine else float("inf")
    return [row for row in coarse if row[0] < begins] + fine


def _iostat(
    looks: list[dict[str, Any]], name: str | None, every_seconds: float
) -> Iterator[Sample]:
    """Yield what was written: all of it, also what was overwritten in the meantime."""
    for each in looks[1:]:  # the first one is since the system's start
        disks = [d for d in each["disk"] if name in {None, d["disk_device"]}]
        if not disks:
            raise KeyError(name)
        written = sum(_kib_written(disk) for disk in disks) * 1024
        yield Sample(every_seconds, written * every_seconds)


def _kib_written(disk: dict[str, Any]) -> float:
    key = "wkB/s" if "wkB/s" in disk else "kB_wrtn/s"
    return float(disk[key])


def record(
    path: str,
    fetch: Callable[[], dict[str, Any]],
    now: Callable[[], float],
    pause: Callable[[], None],
    seconds: float,
) -> int:
    """Append a line for each look at the status, for so long; return how many.

    Ctrl-C ends it in good order. Raises `NotRecordedError`.
    """
    began, count = now(), 0
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            while now() - began <= seconds:
                file.write(json.dumps(_line(fetch(), now())) + "\n")
                file.flush()
                count += 1
                pause()
    except KeyboardInterrupt:
        pass
    except OSError as error:
        raise NotRecordedError(f"{path}: {error.strerror}: name another file") from None
    return count


def _line(status: dict[str, Any], now: float) -> dict[str, Any]:
    groups = {}
    for group in status["groups"]:
        totals = group["totals"] or {}
        if totals.get("bytes_changed") is not None:
            changed, wire = totals["bytes_changed"], totals["bytes_on_wire"]
            groups[group["name"]] = {"changed": changed, "wire": wire}
    return {"time_seconds": now, "groups": groups}
