"""`make bench-wan ARGS="--only bytes"`: a cut on the wire, as ratios to others.

Every replicator gets the same versions of the same image, one after the other, from a
workload on ext4; `btrfs send` gets the same workload on btrfs. Everything is counted
on loopback, both ways, with zstd at its default level wherever there is compression.
Needs root: it mounts, in a namespace of its own. The table goes to stdout, progress
to stderr, everything counted as JSON to the file named by --json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import wan_images, wan_peers, wan_workloads
from benchmarks.servers import describe_machine

STEPS = 3
FARSHORE, WHOLE = "farshore", "whole tracks + zstd"
RAW = "changed 4 KiB blocks"

Sizes = dict[str, int]
"""Bytes of all steps together, by who sent them."""


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wan_images.leave_mount_namespace()
    with tempfile.TemporaryDirectory(prefix="fs-", dir=options.directory) as name:
        where = Path(name)
        where.chmod(0o755)  # a database server is another user
        absent = _absent(where)
        found = {}
        for workload in wan_workloads.all_workloads():
            if options.jobs not in workload.name:
                continue
            if not getattr(workload, "is_here", True):
                absent[workload.name] = "not installed"
                continue
            found[workload.name] = _measure(workload, where, absent, options.steps)
            _say(f"{workload.name}: {found[workload.name]}")
    print(table(found))
    for what, why in absent.items():
        print(f"Left out: {what}: {why}.")
    if options.json:
        machine = describe_machine()
        text = {"machine": machine, "bytes": found, "absent": absent}
        options.json.write_text(json.dumps(text, indent=2) + "\n")


def _measure(
    workload: wan_workloads.Workload, where: Path, absent: dict[str, str], steps: int
) -> Sizes:
    _say(f"{workload.name}: the versions")
    versions = wan_images.record(workload, where / "versions", steps)
    ways: dict[str, Callable[[list[Path], Path], list[int]]] = {
        FARSHORE: partial(wan_peers.farshore, delta=True),
        WHOLE: partial(wan_peers.farshore, delta=False),
        "QEMU": wan_peers.qemu,
        "rsync": wan_peers.rsync,
    }
    sizes: Sizes = {RAW: sum(versions.changed_bytes)}
    for name, way in ways.items():
        if name in absent:
            continue
        _say(f"{workload.name}: {name}")
        sizes[name] = sum(way(versions.images, where / "way"))
        shutil.rmtree(where / "way")
    shutil.rmtree(where / "versions")
    if "btrfs" not in absent:
        _say(f"{workload.name}: btrfs")
        sizes["btrfs"] = sum(wan_images.btrfs_send(workload, where / "btrfs", steps))
        shutil.rmtree(where / "btrfs")
    return sizes


def _absent(where: Path) -> dict[str, str]:
    """Return which peers are missing, and why."""
    absent = {}
    for name, command in (("QEMU", "qemu-storage-daemon"), ("rsync", "rsync")):
        if shutil.which(command) is None:
            absent[name] = f"{command} is not installed"
    if why := wan_images.why_no_btrfs(where):
        absent["btrfs"] = why
    return absent


def table(found: dict[str, Sizes]) -> str:
    """Return the bytes as Markdown: farshore's, and its share of each other's."""
    others = [WHOLE, RAW, "QEMU", "btrfs", "rsync"]
    titles = {
        "QEMU": "QEMU incremental",
        "btrfs": "`btrfs send -p \\| zstd`",
        "rsync": "`rsync --inplace -z`",
    }
    head = ["workload", "farshore", *(f"÷ {titles.get(o, o)}" for o in others)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name, sizes in found.items():
        ours = sizes[FARSHORE]
        cells = [name, f"{ours / (1 << 20):.2f} MiB"]
        for other in others:
            theirs = sizes.get(other)
            cells.append(f"{ours / theirs:.3f}" if theirs else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="wan.py", description=__doc__.partition("\n\n")[2]
    )
    add = parser.add_argument
    add("--steps", type=int, default=STEPS, help="cuts after the first")
    add("--jobs", default="", help="only workloads whose name contains this")
    add("--json", type=Path, help="write everything counted here")
    add("--directory", type=Path, help="where images go (a real disk)")
    options = parser.parse_args()
    if not 1 <= options.steps <= 20:
        parser.error("--steps: 1 to 20")
    return options


if __name__ == "__main__":
    main()
