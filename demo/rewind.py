"""`make demo-rewind`: a file system is overwritten with noise, and the recovery point
from right before that is found and served.

Exit status: 0 if every file was there again, 1 if not, 2 if the demo could not be
carried through, 130 on Ctrl-C.
"""

from __future__ import annotations

import secrets
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from common.cli.display import console, plain, seconds_text, size_text
from common.errors import FarshoreError
from common.service.control_client import ControlClient
from demo.file_system import Examined, HostFiles, examine
from demo.nbd_export import NbdExport
from demo.pair_config import PairConfig
from demo.scratch import run_in_scratch
from demo.sites import DemoError, Site
from demo.started_sites import show_logs, start_pair

GROUP: Final = "office"
VOLUME: Final = "files"
EXPORT: Final = f"{GROUP}/{VOLUME}"
EDITS: Final = 12
EDIT_SECONDS: Final = 0.4
"""Between two edits: some of the points, cut twice a second, have one, some two."""

NOISE_BYTES: Final = 1 << 20
NOISE_SECONDS: Final = 3.0
"""For all of the volume: over several cycles, as no attacker is done in an instant."""

CYCLE_SECONDS_MAX: Final = 30.0
POLL_SECONDS: Final = 0.05
READ_BYTES: Final = 1 << 20
SUSPICIOUS: Final = 8.0
"""Times what is usual: more has changed than somebody's work explains."""


def main() -> int:
    """Run the demo in a directory of its own; keep that only if it failed."""
    return run_in_scratch(console(), "farshore-rewind-", _run)


def _run(screen: Console, root: Path) -> bool:
    config = PairConfig(
        root,
        GROUP,
        {VOLUME: "64MiB"},
        sent='interval = "500ms"',
        received='retain = ["all for 1h"]',
    )
    with ExitStack() as cleanup:
        primary, remote = start_pair(cleanup, config)
        screen.print(
            f"Both sites run. A host keeps an ext4 on {EXPORT}, through NBD. Twice a "
            "second there is\na cut, and the remote keeps every point for an hour.\n"
        )
        try:
            volume = cleanup.enter_context(NbdExport(config.host_socket, EXPORT))
            files = _work(screen, root, volume, primary)
            _attack(screen, volume, primary)
            found = _find(screen, root, config)
        except (DemoError, FarshoreError, OSError):
            show_logs(screen, remote, primary)
            raise
    return _judge(screen, files, found)


# -- what happens ----------------------------------------------------------------------


def _work(screen: Console, root: Path, volume: NbdExport, primary: Site) -> HostFiles:
    """Write letters, for a while; return once all are in a recovery point."""
    place = root / "host"
    place.mkdir()
    files = HostFiles(place, volume.size_bytes, seed=1)
    for _ in range(EDITS):
        files.edit()
        for offset, block in files.changed():
            volume.write(offset, block)
        volume.flush()
        time.sleep(EDIT_SECONDS)
    _wait_until_safe(primary)
    screen.print(f"{files.count} letters written. Every one is at the remote.")
    return files


def _attack(screen: Console, volume: NbdExport, primary: Site) -> None:
    """Overwrite all of the volume with noise; return once that is at the remote."""
    began = time.monotonic()
    for offset in range(0, volume.size_bytes, NOISE_BYTES):
        volume.write(offset, secrets.token_bytes(NOISE_BYTES))
        due = began + NOISE_SECONDS * (offset + NOISE_BYTES) / volume.size_bytes
        time.sleep(max(0.0, due - time.monotonic()))
    volume.flush()
    took = seconds_text(time.monotonic() - began)
    _wait_until_safe(primary)
    screen.print(
        f"[bold red]In {took} all {size_text(volume.size_bytes)} of it became noise.[/]"
        " Replication is fast: so did the newest point.\n"
    )


def _wait_until_safe(primary: Site) -> None:
    """Wait until the newest point has all that was written before."""
    now = datetime.now(UTC)
    deadline = time.monotonic() + CYCLE_SECONDS_MAX
    while time.monotonic() < deadline:
        point = primary.group()["recovery_point"]
        if point is not None and datetime.fromisoformat(point["current_as_of"]) > now:
            return
        time.sleep(POLL_SECONDS)
    raise DemoError(f"there was no recovery point in {CYCLE_SECONDS_MAX:g} s")


# -- the way back ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """The point that was chosen, and what was in it."""

    number: int
    cut_time: str
    examined: Examined
    opened_seconds: float


def _find(screen: Console, root: Path, config: PairConfig) -> Found:
    """List the points, choose the one before the change, and look at what is in it.

    Go back from it as far as need be, or on, up to the newest that is sound.
    """
    with ControlClient(config.remote_control) as client:
        points: list[dict[str, Any]] = client.call("points", {"group": GROUP})
    _look(screen, root, config, points[0])
    chosen = chosen_point(points)
    _show(screen, points, chosen)
    at = [point["number"] for point in points].index(chosen)
    found = _look(screen, root, config, points[at])
    while found.examined.fault is not None and at + 1 < len(points):
        at += 1
        found = _look(screen, root, config, points[at])
    while found.examined.fault is None and at > 0:
        at -= 1
        newer = _look(screen, root, config, points[at])
        if newer.examined.fault is not None:
            break
        found = newer
    return found


def chosen_point(points: list[dict[str, Any]]) -> int:
    """Return the point before the first change that is far more than usual.

    `bytes` of a point is what the cycles after it have overwritten of it, as its
    journals keep it: the last good point before an attack is the first large one.
    """
    oldest_first = sorted(points, key=lambda point: int(point["number"]))
    usual = statistics.median(point["bytes"] for point in oldest_first)
    for point in oldest_first[1:]:
        if point["bytes"] > SUSPICIOUS * usual:
            return int(point["number"])
    return int(oldest_first[-1]["number"])


def _show(screen: Console, points: list[dict[str, Any]], chosen: int) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("POINT", "CUT", "OVERWRITTEN SINCE, KEPT", ""):
        table.add_column(title)
    for point in points:
        mark = "<- the last one before far more changed than usual"
        table.add_row(
            plain(point["number"]),
            plain(point["cut_time"]),
            plain(size_text(point["bytes"])),
            plain(mark if point["number"] == chosen else "", "bold green"),
        )
    screen.print(table)


def _look(
    screen: Console, root: Path, config: PairConfig, point: dict[str, Any]
) -> Found:
    """Read a point over NBD, as anybody would, and examine what is in it."""
    began = time.monotonic()
    image = root / "recovered"
    with (
        NbdExport(config.recovery_socket, f"{EXPORT}@{point['number']}") as export,
        image.open("wb") as file,
    ):
        export.read(0, 512)
        opened = time.monotonic() - began
        for offset in range(0, export.size_bytes, READ_BYTES):
            length = min(READ_BYTES, export.size_bytes - offset)
            file.write(export.read(offset, length))
    place = root / "examined"
    place.mkdir(exist_ok=True)
    examined = examine(image, place)
    verdict = examined.fault or f"{examined.files} files, all as listed"
    screen.print(f"point {point['number']}: {verdict}", markup=False)
    return Found(point["number"], point["cut_time"], examined, opened)


def _judge(screen: Console, files: HostFiles, found: Found) -> bool:
    is_good = found.examined.fault is None and found.examined.files == files.count
    served = seconds_text(found.opened_seconds)
    screen.print(
        f"\nrecovery point    {found.number}, cut at {found.cut_time}\n"
        f"served            {served} after it was asked for\n"
        f"files             {found.examined.files} of {files.count}, as they were\n"
    )
    screen.print(
        "HELD: the file system is as it was right before it was overwritten."
        if is_good
        else "NOT HELD: not every file is there again."
    )
    return is_good


if __name__ == "__main__":
    sys.exit(main())
