"""`make bench`: farshore beside qemu-nbd and nbdkit, in one run, as ratios.

Absolute figures depend on the machine and the hour; the ratios of one run depend
on both much less. Nothing else should run meanwhile. The table goes to stdout,
everything as JSON to the file named by --json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.servers import (
    Pair,
    Site,
    describe_machine,
    idle,
    nbdkit,
    need,
    qemu_nbd,
    wait_until,
)

SIZE = 256 << 20
"""The part of a volume that jobs touch; it fits into the page cache."""

LARGE = "16777215MiB"
"""As good as 16 TiB: ext4 holds no file of quite that size."""

ROUNDS = 3
"""Each job runs so often against each server, in turn; the median counts."""

JOBS = {
    "4 KiB random write, depth 1": ("randwrite", "4k", 1),
    "4 KiB random write, depth 32": ("randwrite", "4k", 32),
    "4 KiB random read, depth 1": ("randread", "4k", 1),
    "4 KiB random read, depth 32": ("randread", "4k", 32),
    "128 KiB sequential write, depth 8": ("write", "128k", 8),
}


def fio(
    uri: str, kind: str, block: str, depth: int, seconds: float, *more: str
) -> dict[str, float]:
    """Run one fio job; return operations and bytes a second, and latency p99 (us)."""
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--rw={kind}"]
    command += [f"--bs={block}", f"--iodepth={depth}", f"--size={SIZE}", "--time_based"]
    command += [f"--runtime={seconds}", "--output-format=json", "--norandommap", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = done.stdout[done.stdout.index("{") :]
    job = json.loads(text)["jobs"][0]["read" if "read" in kind else "write"]
    return {
        "iops": job["iops"],
        "bytes_per_second": job["bw_bytes"],
        "p99_us": job["clat_ns"]["percentile"]["99.000000"] / 1000,
    }


def fill(image: Path, size: int = SIZE) -> None:
    """Write data that does not compress: nobody gains by holes or zeroes."""
    with image.open("r+b" if image.exists() else "w+b") as out:
        for _ in range(size >> 20):
            out.write(os.urandom(1 << 20))
        out.flush()
        os.fsync(out.fileno())


def host_path(where: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Every job against every server, round by round; returns median operations/s."""
    images = {name: where / f"{name}.img" for name in ("qemu", "nbdkit")}
    for image in images.values():
        fill(image)
    near, cycling = where / "near", where / "cycling"
    near.mkdir()
    cycling.mkdir()
    found: dict[str, dict[str, list[float]]] = {job: {} for job in JOBS}
    with ExitStack() as stack:
        idle_pair = Pair(near, "1GiB", "manual = true")
        fill(idle_pair.image)
        os.truncate(idle_pair.image, 1 << 30)
        busy_pair = Pair(cycling, "1GiB", 'interval = "1s"')
        fill(busy_pair.image)
        os.truncate(busy_pair.image, 1 << 30)
        uris = {
            "qemu-nbd": stack.enter_context(qemu_nbd(images["qemu"], where)),
            "nbdkit": stack.enter_context(nbdkit(images["nbdkit"], where)),
        }
        quiet = _start(stack, idle_pair)
        quiet.call("cut", group="bench", wait=True, label=None)
        uris["farshore, FlashCopy standing"] = idle_pair.uri
        for _ in range(ROUNDS):
            for job, (kind, block, depth) in JOBS.items():
                for name, uri in uris.items():
                    result = fio(uri, kind, block, depth, seconds)
                    found[job].setdefault(name, []).append(result["iops"])
        busy = _start(stack, busy_pair)
        wait_until(lambda: idle(busy), "first copy", 120)
        for _ in range(ROUNDS):
            for job, (kind, block, depth) in JOBS.items():
                for name in ("qemu-nbd", "nbdkit"):
                    # The peers again beside a pair that cycles: same neighbours.
                    result = fio(uris[name], kind, block, depth, seconds)
                    found[job].setdefault(f"{name} (2)", []).append(result["iops"])
                result = fio(busy_pair.uri, kind, block, depth, seconds)
                found[job].setdefault("farshore, a cycle a second", []).append(
                    result["iops"]
                )
        memory = {"primary": busy.resident_bytes()}
    medians = {
        job: {name: statistics.median(values) for name, values in by.items()}
        for job, by in found.items()
    }
    medians["resident memory after it, bytes"] = {
        k: float(v) for k, v in memory.items()
    }
    return medians


def _start(stack: ExitStack, pair: Pair) -> Site:
    stack.enter_context(pair.remote())
    site = stack.enter_context(pair.primary())
    wait_until(lambda: site.group()["link"]["state"] == "connected", "link", 30)
    return site


def first_copy(where: Path, size: int) -> dict[str, float]:
    """First copy of a full volume, against nbdcopy between two nbdkits."""
    folder = where / "copy"
    folder.mkdir()
    pair = Pair(folder, str(size) + "B", 'interval = "1h"')
    fill(pair.image, size)
    target = folder / "target.img"
    with target.open("wb") as out:
        out.truncate(size)
    with (
        nbdkit(pair.image, folder, "from") as source,
        nbdkit(target, folder, "to") as to,
    ):
        began = time.monotonic()
        subprocess.run(["nbdcopy", "--flush", source, to], check=True)
        nbdcopy_seconds = time.monotonic() - began
    with ExitStack() as stack:
        site = _start(stack, pair)
        wait_until(lambda: idle(site), "first copy", 600)
        cycle = pair.cycles()[0]
        resident = site.resident_bytes()
    return {
        "bytes": size,
        "nbdcopy_bytes_per_second": size / nbdcopy_seconds,
        "farshore_bytes_per_second": size / cycle["drain_seconds"],
        "resident_bytes": resident,
    }


def hold_times(where: Path, size: str, seconds: float) -> dict[str, float]:
    """Hold times under 4 KiB random writes at depth 32, a cut every 200 ms."""
    folder = where / f"hold-{size}"
    folder.mkdir()
    pair = Pair(folder, size, 'interval = "200ms"')
    with ExitStack() as stack:
        site = _start(stack, pair)
        wait_until(lambda: idle(site), "first copy", 600)
        before = len(pair.cycles())
        result = fio(pair.uri, "randwrite", "4k", 32, seconds)
        holds = [c["hold_seconds"] for c in pair.cycles()[before:]]
        resident = site.resident_bytes()
        tracks = site.group()["volumes"][0]
    return {
        "cuts": len(holds),
        "p50_ms": statistics.median(holds) * 1000,
        "p99_ms": quantile(holds, 0.99) * 1000,
        "max_ms": max(holds) * 1000,
        "iops": result["iops"],
        "write_p99_us": result["p99_us"],
        "resident_bytes": resident,
        "track_count": -(-tracks["size_bytes"] // tracks["track_bytes"]),
    }


def age(where: Path, seconds: float) -> dict[str, float]:
    """Age of the recovery point at 20 MB/s of random writes with rpo = 1 s."""
    folder = where / "age"
    folder.mkdir()
    pair = Pair(folder, "1GiB", 'rpo = "1s"')
    fill(pair.image)
    os.truncate(pair.image, 1 << 30)
    ages: list[float] = []
    with ExitStack() as stack:
        site = _start(stack, pair)
        wait_until(lambda: idle(site), "first copy", 120)
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(0.05):
                ages.append(float(site.group()["recovery_point_age_seconds"]))

        sampler = threading.Thread(target=sample)
        sampler.start()
        result = fio(pair.uri, "randwrite", "4k", 32, seconds, "--rate=20m")
        stop.set()
        sampler.join()
        remote = site.resident_bytes()
    return {
        "written_bytes_per_second": result["bytes_per_second"],
        "samples": len(ages),
        "p50_seconds": statistics.median(ages),
        "p99_seconds": quantile(ages, 0.99),
        "max_seconds": max(ages),
        "resident_bytes": remote,
    }


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    standing, cycling = "farshore, FlashCopy standing", "farshore, a cycle a second"
    heads = ["job", "qemu-nbd", "nbdkit", standing, "x better peer", cycling]
    heads.append("x better peer")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for job in JOBS:
        by = results["host_path"][job]
        first = by[standing] / max(by["qemu-nbd"], by["nbdkit"])
        busy = by[cycling]
        second = busy / max(by["qemu-nbd (2)"], by["nbdkit (2)"])
        lines.append(
            f"| {job} | {by['qemu-nbd']:,.0f} | {by['nbdkit']:,.0f} "
            f"| {by[standing]:,.0f} | **{first:.2f}** "
            f"| {busy:,.0f} | **{second:.2f}** |"
        )
    return "\n".join(lines)


PARTS = ("host_path", "first_copy", "hold", "age")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a job")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--only", choices=PARTS, help="run one part")
    parser.add_argument("--directory", type=Path, help="where images go (a real disk)")
    options = parser.parse_args()
    need("qemu-nbd", "nbdkit", "nbdcopy", "fio")
    parts = (options.only,) if options.only else PARTS
    results: dict[str, object] = {"machine": describe_machine()}
    with tempfile.TemporaryDirectory(prefix="fs-", dir=options.directory) as name:
        where = Path(name)
        if "host_path" in parts:
            results["host_path"] = host_path(where, options.seconds)
            print(table(results))  # type: ignore[arg-type]
        if "first_copy" in parts:
            results["first_copy"] = first_copy(where, 1 << 30)
        if "hold" in parts:
            results["hold"] = {
                s: hold_times(where, s, 4 * options.seconds) for s in ("1GiB", LARGE)
            }
        if "age" in parts:
            results["age"] = age(where, 6 * options.seconds)
    text = json.dumps(results, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
