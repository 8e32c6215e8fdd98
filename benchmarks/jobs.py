"""The jobs: what is asked of every server, and how one of them is run.

fio's nbd engine sends READ, WRITE, TRIM and FLUSH, and never a command flag (its
`queue` passes 0 to libnbd), so `--sync=1` or RWF_DSYNC would change nothing: writes
with FUA come from `fua_client.py`, and `--fsync=1` makes the engine send a FLUSH
after every WRITE, which is what a host does that lacks FUA.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

FUA_CLIENT = Path(__file__).with_name("fua_client.py")
SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's own: libnbd's Python module (python3-libnbd) is built for it."""


RUN_SECONDS_MAX = 600
"""A server that never answers ends the benchmark with an error, not never."""


@dataclass(frozen=True, slots=True)
class Target:
    """What farshore is to reach: its figure over a peer's, and the bound on that."""

    peer: str
    """The start of a server's name, or "" for the best of all peers."""

    bound: float
    is_latency: bool = False
    """Mean completion latency, at most `bound`; otherwise operations, at least."""

    def text(self) -> str:
        sign, peer = ("≤" if self.is_latency else "≥"), self.peer or "the best"
        what = "latency " if self.is_latency else ""
        return f"{what}{sign} {self.bound:g} × {peer}"


@dataclass(frozen=True, slots=True)
class Job:
    """One row. `is_once`: no block twice; it ends early when all had their turn."""

    kind: str
    block_kib: int
    depth: int
    connections: int = 1
    is_cold: bool = False
    is_once: bool = False
    durable: str = ""
    """"" as the page cache pleases, "fua": WRITE with FUA, "fsync": FLUSH after each"""

    target: Target | None = None
    in_quick: bool = False

    @property
    def name(self) -> str:
        size = "1 MiB" if self.block_kib == 1024 else f"{self.block_kib} KiB"
        parts = [f"{size} {_KINDS[self.kind]}", f"depth {self.depth}"]
        if self.connections > 1:
            parts.append(f"{self.connections} connections")
        if self.durable:
            parts.append({"fua": "FUA", "fsync": "FLUSH after each"}[self.durable])
        if self.is_cold:
            parts.append("cold")
        return ", ".join(parts)

    @property
    def reads_only(self) -> bool:
        return self.kind in {"read", "randread"}


_KINDS = {
    "randwrite": "random write",
    "randread": "random read",
    "randrw": "random mixed 70/30",
    "write": "sequential write",
    "read": "sequential read",
}


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of a job found; times in microseconds, means over all operations."""

    operations_per_second: float
    bytes_per_second: float
    mean_us: float
    p99_us: float
    written_bytes: int = 0


def run(job: Job, uri: str, image: Path | None, size: int, seconds: float) -> Result:
    """Run a job once against what answers at `uri`; `size` in bytes."""
    if job.is_cold and image is not None:
        drop_from_cache(image)
    if job.durable == "fua":
        return _write_fua(uri, size, seconds, job)
    more = [f"--numjobs={job.connections}", "--group_reporting"]
    size //= job.connections
    if job.connections > 1:
        more.append(f"--offset_increment={size}")
    if job.kind == "randrw":
        more.append("--rwmixread=70")
    if job.durable == "fsync":
        more.append("--fsync=1")
    more.append(f"--runtime={seconds * 1000:.0f}ms")
    if not job.is_once:
        more += ["--norandommap", "--time_based"]
    return fio(uri, job.kind, job.block_kib << 10, job.depth, size, *more)


def fio(uri: str, kind: str, block: int, depth: int, size: int, *more: str) -> Result:
    """Run fio on the first `size` bytes of an export; raises where an I/O failed."""
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--rw={kind}"]
    command += [f"--bs={block}", f"--iodepth={depth}", f"--size={size}"]
    command += ["--output-format=json", *more]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX
    )
    if done.returncode:
        raise RuntimeError(f"fio at {uri}: {done.stdout[:300]} {done.stderr[:600]}")
    jobs = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    (job,) = jobs
    sides = [job[side] for side in ("read", "write") if job[side]["total_ios"]]
    total = sum(side["total_ios"] for side in sides)
    if job["error"] or not total:
        raise RuntimeError(f"fio at {uri}: error {job['error']}, {total} I/Os")
    if "--fsync=1" in more and not job["sync"]["total_ios"]:
        raise RuntimeError(f"fio at {uri}: sent no FLUSH")
    weighted = sum(s["clat_ns"]["mean"] * s["total_ios"] for s in sides)
    return Result(
        sum(s["iops"] for s in sides),
        sum(s["bw_bytes"] for s in sides),
        weighted / total / 1000,
        max(s["clat_ns"]["percentile"]["99.000000"] for s in sides) / 1000,
        job["write"]["io_bytes"],
    )


def _write_fua(uri: str, size: int, seconds: float, job: Job) -> Result:
    command = [SYSTEM_PYTHON, str(FUA_CLIENT), uri, str(size), str(job.block_kib << 10)]
    command += [str(job.depth), str(seconds)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX
    )
    if done.returncode:
        raise RuntimeError(f"{FUA_CLIENT.name} at {uri}: {done.stderr[-600:]}")
    return Result(**json.loads(done.stdout))


def drop_from_cache(image: Path) -> None:
    """Have the page cache forget one file: clean pages go, the rest is synced first.

    Only this file: dropping all caches of the machine would slow whatever else the
    servers read, their own programs included.
    """
    descriptor = os.open(image, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


# -- the table -------------------------------------------------------------------------

_READ = Target("", 1.5)
_SEQUENTIAL = Target("", 0.9)
_LATENCY = Target("qemu-nbd", 1.1, is_latency=True)


def _steady() -> list[Job]:
    """Rows of one connection count; their targets count on one connection."""
    jobs: list[Job] = []
    for kind in ("randwrite", "randread", "randrw"):
        for depth in (1, 8, 32):
            target = _LATENCY if depth == 1 and kind != "randrw" else None
            if depth > 1 and kind == "randread":
                target = _READ
            if depth == 32 and kind == "randwrite":
                target = Target("", 1.5)
            quick = kind == "randwrite" or (kind == "randread" and depth != 8)
            jobs.append(Job(kind, 4, depth, target=target, in_quick=quick))
    for block, depth in ((128, 8), (1024, 4)):
        for kind in ("write", "read"):
            quick = block == 128
            jobs.append(Job(kind, block, depth, target=_SEQUENTIAL, in_quick=quick))
    jobs += [Job("randwrite", 4, depth, durable="fua") for depth in (1, 8)]
    jobs += [Job("randwrite", 4, depth, durable="fsync") for depth in (1, 8)]
    jobs += [
        Job("randread", 4, 1, is_cold=True),
        Job("randread", 4, 32, is_cold=True, target=_READ),
        Job("read", 128, 8, is_cold=True, is_once=True, target=_SEQUENTIAL),
        Job("read", 1024, 4, is_cold=True, is_once=True, target=_SEQUENTIAL),
    ]
    return jobs


FOUR = [
    Job("randwrite", 4, 8, connections=4),
    Job("randwrite", 4, 32, connections=4, target=Target("", 1.5)),
    Job("randread", 4, 8, connections=4),
    Job("randread", 4, 32, connections=4, target=_READ),
    Job("randrw", 4, 32, connections=4),
    Job("write", 128, 8, connections=4, target=_SEQUENTIAL),
    Job("read", 128, 8, connections=4, target=_SEQUENTIAL),
    Job("randwrite", 4, 8, connections=4, durable="fsync"),
]

STEADY = [*_steady(), *FOUR]

_PRESERVING = Target("copy-before-write", 1.0)
PRESERVING = [
    Job("randwrite", 4, 1, is_once=True),
    Job("randwrite", 4, 8, is_once=True, target=_PRESERVING),
    Job("randwrite", 4, 32, is_once=True, target=_PRESERVING, in_quick=True),
    Job("randwrite", 4, 32, connections=4, is_once=True, target=_PRESERVING),
    Job("write", 128, 8, is_once=True, target=_PRESERVING),
]

CYCLING = [
    Job("randwrite", 4, 1),
    Job("randwrite", 4, 32, target=Target("qemu-nbd", 0.6), in_quick=True),
    Job("randwrite", 4, 32, connections=4, target=Target("qemu-nbd", 0.6)),
    Job("randread", 4, 32, target=_READ),
    Job("write", 128, 8),
]
