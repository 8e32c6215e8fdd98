"""`make bench`: farshore beside the C servers, in one run, as ratios.

Absolute figures depend on the machine and the hour; the ratios of one run depend
on both much less. Nothing else should run meanwhile. Tables go to stdout, progress
to stderr, everything measured as JSON to the file named by --json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import host_path, replication, report, servers
from benchmarks.jobs import SYSTEM_PYTHON

PACKAGES = {
    "qemu-nbd": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "nbdkit": "nbdkit",
    "nbd-server": "nbd-server",
    "nbdcopy": "libnbd-bin",
    "fio": "fio",
}
"""Every command that a run starts, and the Debian package that has it."""

PARTS = ("host_path", "first_copy", "hold", "age")


def main() -> None:
    options = _options()
    _need_peers()
    # A terminated run must end its servers too: SystemExit unwinds them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parts = options.only or (PARTS[:1] if options.quick else PARTS)
    machine = servers.describe_machine()
    found: dict[str, object] = {"machine": machine, "command": sys.argv[1:]}
    for name, value in machine.items():
        print(f"{name}: {value}")
    print()
    directory = options.directory
    with tempfile.TemporaryDirectory(prefix="fs-", dir=directory) as name:
        where = Path(name)
        if "host_path" in parts:
            found["host_path"] = _host_path(where, options)
        rest = _replication(where, parts, options.seconds)
        if rest:
            print(report.replication(rest))
    found |= rest
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _host_path(where: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    extent = host_path.Extent(
        seconds=options.seconds,
        rounds=options.rounds,
        size_bytes=options.size_mib << 20,
        is_quick=options.quick,
        matching=options.jobs,
        situations=tuple(options.situation or ()),
        transports=tuple(options.transport or servers.TRANSPORTS),
    )
    rows = host_path.measure(where, extent, _say)
    print(report.host_path(rows, host_path.situations(has_io_uring=True)), flush=True)
    return [asdict(row) | {"job": row.job.name} for row in rows]


def _replication(
    where: Path, parts: tuple[str, ...], seconds: float
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    if "first_copy" in parts:
        _say("first copy")
        size = replication.FIRST_COPY_BYTES
        found["first_copy"] = replication.first_copy(where, size)
    if "hold" in parts:
        for volume in (replication.SMALL, replication.LARGE):
            _say(f"hold times, {volume}")
            found[f"hold {volume}"] = replication.hold_times(where, volume, 4 * seconds)
    if "age" in parts:
        _say("age of the recovery point")
        found["age"] = replication.age(where, 6 * seconds)
    return found


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _need_peers() -> None:
    """End with a sentence if a peer to compare with is not installed."""
    missing = {c: p for c, p in PACKAGES.items() if shutil.which(c) is None}
    probe = subprocess.run([SYSTEM_PYTHON, "-c", "import nbd"], capture_output=True)
    if probe.returncode:
        missing["Python module nbd"] = "python3-libnbd"
    if missing:
        packages = ", ".join(sorted(set(missing.values())))
        raise SystemExit(
            f"benchmark: {', '.join(missing)} not found; Debian has: {packages}"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__.partition("\n\n")[2]
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="only the rows that targets need, on Unix")
    add("--seconds", type=float, help="length of a job (quick: 2, otherwise 5)")
    add("--rounds", type=int, default=3, help="runs of each job; the median counts")
    add("--only", choices=PARTS, action="append", help="run this part (repeatable)")
    add("--situation", choices=("steady", "preserving", "cycling"), action="append")
    add("--transport", choices=servers.TRANSPORTS, action="append")
    add("--jobs", default="", help="only jobs whose name contains this")
    add("--size-mib", type=int, default=256, help="size of each image")
    add("--json", type=Path, help="write everything measured here")
    add("--directory", type=Path, help="where images go (a real disk)")
    options = parser.parse_args()
    if options.seconds is None:
        options.seconds = 2.0 if options.quick else 5.0
    if options.seconds < 0.1 or options.rounds < 1 or options.size_mib < 64:
        parser.error("at least 0.1 seconds, 1 round and 64 MiB")
    if options.size_mib % 4:
        parser.error("--size-mib: a multiple of 4, for four connections")
    if options.only:
        options.only = tuple(options.only)
    return options


if __name__ == "__main__":
    main()
