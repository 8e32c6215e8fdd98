"""First copy, hold time, and age of the recovery point."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.farshore_sites import Pair, connected, idle
from benchmarks.jobs import fio
from benchmarks.processes import wait_until
from benchmarks.servers import Place, fill, nbdkit_file

FIRST_COPY_BYTES = 1 << 30
TOUCHED_BYTES = 256 << 20
"""The part of a volume that jobs touch; it fits into the page cache."""

SMALL, LARGE = "1GiB", "16777215MiB"
"""LARGE is as good as 16 TiB: ext4 holds no file of quite that size."""


def first_copy(
    where: Path,
    size: int,
    fill_with: Callable[[Path, int], None] = fill,
    *,
    encrypted: bool = False,
    rounds: int = 1,
) -> dict[str, float]:
    """First copies of a full volume, in turn with nbdcopy between two nbdkits.

    Bytes a second, medians of the rounds. All read one image, which lies in memory, and
    write a new sparse file, durably. nbdcopy reaches the target by TCP on loopback, as
    farshore does, and in a second figure by a Unix socket; its source by a Unix socket.
    `encrypted`: ours over TLS, theirs never.
    """
    folder = where / "copy"
    folder.mkdir()
    source = folder / "image"
    fill_with(source, size)
    ours, by_tcp, by_unix, resident = [], [], [], 0
    for number in range(rounds):
        # What one copy leaves for the disk to do, its files' removal too, is not to
        # be part of the next.
        os.sync()
        by_tcp.append(_nbdcopy(source, folder / f"tcp{number}", "tcp"))
        os.sync()
        by_unix.append(_nbdcopy(source, folder / f"unix{number}", "unix"))
        os.sync()
        seconds, resident = _copied_by_us(
            source, folder / f"pair{number}", encrypted=encrypted
        )
        ours.append(seconds)
    return {
        "bytes": size,
        "nbdcopy_bytes_per_second": size / statistics.median(by_tcp),
        "nbdcopy_unix_bytes_per_second": size / statistics.median(by_unix),
        "farshore_bytes_per_second": size / statistics.median(ours),
        "resident_bytes": resident,
    }


def _nbdcopy(source: Path, folder: Path, transport: str) -> float:
    """Return the seconds of a copy that is durable."""
    size = source.stat().st_size
    places = Place(folder / "a", "unix", size), Place(folder / "b", transport, size)
    for place in places:
        place.folder.mkdir(parents=True)
    os.link(source, places[0].folder / "image")
    with (places[1].folder / "image").open("wb") as out:
        out.truncate(size)
    with nbdkit_file(places[0]) as here, nbdkit_file(places[1]) as there:
        began = time.monotonic()
        subprocess.run(["nbdcopy", "--flush", here.uri, there.uri], check=True)
        seconds = time.monotonic() - began
    shutil.rmtree(folder)
    return seconds


def _copied_by_us(source: Path, folder: Path, *, encrypted: bool) -> tuple[float, int]:
    """Return the seconds from cut to commit, and the primary's memory in bytes."""
    folder.mkdir()
    pair = Pair(folder, f"{source.stat().st_size}B", 'interval = "1h"')
    if encrypted:
        pair.encrypt()
    os.link(source, pair.image)
    with connected(pair) as site:
        # The log is looked at, not the status: making that takes time of the copy's.
        wait_until(lambda: bool(pair.cycles()), "first copy", 600)
        seconds = pair.cycles()[0]["drain_seconds"]
        resident = site.resident_bytes()
    shutil.rmtree(folder)
    return seconds, resident


def hold_times(where: Path, size: str, seconds: float) -> dict[str, float]:
    """Hold times under 4 KiB random writes at depth 32, a cut every 200 ms."""
    folder = where / f"hold-{size}"
    folder.mkdir()
    pair = Pair(folder, size, 'interval = "200ms"')
    with connected(pair) as site:
        wait_until(lambda: idle(site), "first copy", 600)
        before = len(pair.cycles())
        result = fio(pair.uri, "randwrite", 4096, 32, TOUCHED_BYTES, *_for(seconds))
        # A short run may end before its first cycle does.
        wait_until(lambda: len(pair.cycles()) > before, "a cycle", 60)
        holds = [c["hold_seconds"] for c in pair.cycles()[before:]]
        resident = site.resident_bytes()
        volumes = site.group()["volumes"]
    assert isinstance(volumes, list)
    return {
        "cuts": len(holds),
        "p50_ms": statistics.median(holds) * 1000,
        "p99_ms": quantile(holds, 0.99) * 1000,
        "max_ms": max(holds) * 1000,
        "iops": result.operations_per_second,
        "write_p99_us": result.p99_us,
        "resident_bytes": resident,
        "track_count": -(-volumes[0]["size_bytes"] // volumes[0]["track_bytes"]),
    }


def age(where: Path, seconds: float) -> dict[str, float]:
    """Age of the recovery point at 20 MB/s of random writes with rpo = 1 s."""
    folder = where / "age"
    folder.mkdir()
    pair = Pair(folder, f"{TOUCHED_BYTES}B", 'rpo = "1s"')
    fill(pair.image, TOUCHED_BYTES)
    ages: list[float] = []
    with connected(pair) as site:
        wait_until(lambda: idle(site), "first copy", 120)
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(0.05):
                seen = site.group()["recovery_point_age_seconds"]
                assert isinstance(seen, float | int)
                ages.append(float(seen))

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            result = fio(
                *(pair.uri, "randwrite", 4096, 32, TOUCHED_BYTES),
                *_for(seconds),
                "--rate=20m",
            )
        finally:
            stop.set()
            sampler.join()
        resident = site.resident_bytes()
    return {
        "written_bytes_per_second": result.bytes_per_second,
        "samples": len(ages),
        "p50_seconds": statistics.median(ages),
        "p99_seconds": quantile(ages, 0.99),
        "max_seconds": max(ages),
        "resident_bytes": resident,
    }


def _for(seconds: float) -> tuple[str, ...]:
    return ("--norandommap", "--time_based", f"--runtime={seconds * 1000:.0f}ms")


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
