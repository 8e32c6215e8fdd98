"""What a verify costs hosts: random writes with one under way and without, in turn.

`make bench-wan ARGS="--only verify-cost"`; every figure of a row in one run, with the
same daemons and the same volume, each job right after a cut, so that each first write
of a track preserves. Both sites and the client share this machine: what the remote
reads and hashes is counted as well. "from the disk" drops the volume from memory
before each job, at both sites. A ratio is the median of those of single rounds: a
machine's speed changes over minutes. A verify begins before fio does, and reads at its
full rate until then.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.farshore_sites import Pair, Site, connected, settled
from benchmarks.jobs import drop_from_cache, fio
from benchmarks.processes import wait_until
from benchmarks.servers import fill

SIZE_BYTES = 512 << 20
RATES = ("", "50MiB/s", "1GiB/s")
"""Of a verify: none, the default, and more than it can read."""

ROWS = (("memory", 1), ("memory", 32), ("the disk", 32))
"""Where the volume is, and the depth of the job."""

CYCLE_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class Ran:
    """One job: writes a second, p99 of their latency, MiB/s that a verify compared."""

    rate: float
    p99_us: float
    compared_mib: float


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="fs-", dir=options.directory) as name:
        pair = Pair(Path(name), f"{SIZE_BYTES}B", "manual = true")
        fill(pair.image, SIZE_BYTES)
        with connected(pair) as site:
            print(_HEAD)
            for place, depth in ROWS:
                if options.only in place:
                    print(_row(pair, site, options, place, depth), flush=True)


_HEAD = (
    "| 4 KiB random write | without | `--rate 50MiB/s` | ratio | compared "
    "| `--rate 1GiB/s` | ratio | compared |\n|---|---:|---:|---:|---:|---:|---:|---:|"
)


def _row(
    pair: Pair, site: Site, options: argparse.Namespace, place: str, depth: int
) -> str:
    found: dict[str, list[Ran]] = {rate: [] for rate in RATES}
    for turn in range(options.rounds + 1):
        order = RATES if turn % 2 else RATES[::-1]
        for rate in order if turn else ("",):  # the first job finds nothing warm
            site.call("cut", group="bench")
            wait_until(lambda: settled(site), "the cycle", CYCLE_SECONDS_MAX)
            if place != "memory":
                drop_from_cache(pair.image)
                drop_from_cache(pair.where / "remote.img")
            ran = _job(pair, site, rate, depth, options.seconds)
            if turn:
                found[rate].append(ran)
            name = f"depth {depth}, {place}, {rate or 'no verify'}"
            print(f"{name}: {ran}", file=sys.stderr, flush=True)
    return _told(f"depth {depth}, from {place}", found)


def _job(pair: Pair, site: Site, rate: str, depth: int, seconds: float) -> Ran:
    """Write for a while; a verify that is to be under way is so to the end."""
    if rate:
        site.call("verify", group="bench", action="start", rate=rate)
    result = fio(
        *(pair.uri, "randwrite", 4096, depth, SIZE_BYTES),
        *("--norandommap", "--time_based", f"--runtime={seconds * 1000:.0f}ms"),
    )
    compared = 0.0
    if rate:
        report: Any = site.call("verify", group="bench", action="stop")
        assert not report["differing"], report
        assert report["result"] == "stopped", "it was through before the job"
        compared = report["compared_bytes"] / seconds / (1 << 20)
    return Ran(result.operations_per_second, result.p99_us, compared)


def _told(name: str, found: dict[str, list[Ran]]) -> str:
    base = statistics.median(ran.rate for ran in found[""])
    base_p99 = statistics.median(ran.p99_us for ran in found[""])
    cells = [name, f"{base:,.0f} /s (p99 {base_p99 / 1000:.1f} ms)"]
    for rate, runs in found.items():
        if not rate:
            continue
        pairs = zip(runs, found[""], strict=True)
        ratios = [ran.rate / other.rate for ran, other in pairs]
        median = statistics.median(ran.rate for ran in runs)
        p99 = statistics.median(ran.p99_us for ran in runs) / 1000
        compared = statistics.median(ran.compared_mib for ran in runs)
        cells.append(f"{median:,.0f} /s (p99 {p99:.1f} ms)")
        cells += [f"{statistics.median(ratios):.2f}", f"{compared:.0f} MiB/s"]
    return "| " + " | ".join(cells) + " |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a job")
    parser.add_argument("--rounds", type=int, default=5, help="the median counts")
    parser.add_argument("--only", default="", help="part of a place: memory, disk")
    parser.add_argument("--directory", type=Path, help="where images go (a real disk)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
