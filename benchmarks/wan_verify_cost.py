"""What a verify costs hosts: random writes with one under way and without, in turn.

`python benchmarks/wan_verify_cost.py`; every figure of a row in one run, with the same
daemons and the same volume: both sites and the client share this machine, so what the
remote reads and hashes is counted as well. "cold" drops the volume from memory first,
at both sites: the verify then reads from the disk.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.farshore_sites import Pair, Site, connected, settled
from benchmarks.jobs import Result, drop_from_cache, fio
from benchmarks.processes import wait_until
from benchmarks.servers import fill

SIZE_BYTES = 1 << 30
RATES = ("", "50MiB/s", "200MiB/s")
"""Of a verify; none, the default, and more than a host would be left in peace by."""

COPY_SECONDS_MAX = 300.0


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="fs-", dir=options.directory) as name:
        pair = Pair(Path(name), f"{SIZE_BYTES}B", "manual = true")
        fill(pair.image, SIZE_BYTES)
        with connected(pair) as site:
            _cut(site)
            print(_HEAD)
            for is_cold in (False, True):
                for depth in (1, 32):
                    if options.only not in _name(depth, is_cold=is_cold):
                        continue
                    rows = _measure(pair, site, options, depth, is_cold=is_cold)
                    print(_row(depth, rows, is_cold=is_cold), flush=True)


_HEAD = (
    "| 4 KiB random write | without | p99 µs | 50 MiB/s | ratio | p99 µs "
    "| 200 MiB/s | ratio | p99 µs |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def _measure(
    pair: Pair, site: Site, options: argparse.Namespace, depth: int, *, is_cold: bool
) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {rate: [] for rate in RATES}
    for turn in range(options.rounds):
        order = RATES if turn % 2 == 0 else RATES[::-1]
        for rate in order:
            _cut(site)
            if is_cold:
                drop_from_cache(pair.image)
                drop_from_cache(pair.where / "remote.img")
            found[rate].append(_once(pair, site, rate, depth, options.seconds))
    return found


def _cut(site: Site) -> None:
    """Have a new FlashCopy stand, and nothing to send but what is yet to be written."""
    site.call("cut", group="bench")
    wait_until(lambda: settled(site), "the cycle", COPY_SECONDS_MAX)


def _once(pair: Pair, site: Site, rate: str, depth: int, seconds: float) -> Result:
    """Write for a while; a verify that is to be under way is so to the end."""
    if rate:
        site.call("verify", group="bench", action="start", rate=rate)
    result = fio(
        *(pair.uri, "randwrite", 4096, depth, SIZE_BYTES),
        *("--norandommap", "--time_based", f"--runtime={seconds * 1000:.0f}ms"),
    )
    compared = 0
    if rate:
        report: Any = site.call("verify", group="bench", action="stop")
        assert not report["differing"], report
        compared = report["compared_bytes"]
    print(
        f"depth {depth}, {rate or 'no verify'}: "
        f"{result.operations_per_second:,.0f} a second, p99 {result.p99_us:,.0f} µs, "
        f"{compared >> 20} MiB compared",
        file=sys.stderr,
        flush=True,
    )
    return result


def _name(depth: int, *, is_cold: bool) -> str:
    return f"depth {depth}, from {'the disk' if is_cold else 'memory'}"


def _row(depth: int, found: dict[str, list[Result]], *, is_cold: bool) -> str:
    cells = [_name(depth, is_cold=is_cold)]
    base = 0.0
    for rate, results in found.items():
        median = statistics.median(each.operations_per_second for each in results)
        cells.append(f"{median:,.0f} /s")
        if rate:
            cells.append(f"{median / base:.2f}")
        else:
            base = median
        cells.append(f"{statistics.median(each.p99_us for each in results):,.0f}")
    return "| " + " | ".join(cells) + " |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a job")
    parser.add_argument("--only", default="", help="part of a row's name")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    parser.add_argument("--directory", type=Path, help="where images go (a real disk)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
