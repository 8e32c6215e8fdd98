"""`make bench-wan ARGS="--only throughput"`: the rate of a drain, the age of a point.

A first copy on loopback, of data that does not compress and of data that does, in plain
text and over TLS, in turn with `nbdcopy --flush` between two nbdkits: the medians, and
their ratio to nbdcopy by TCP (beside it: by a Unix socket). Then the age of the newest
point at 20 MB/s of random writes with `rpo = "1s"`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import replication
from benchmarks.servers import describe_machine, fill

RATIO_WANTED = {"plain": 0.6, "TLS": 0.4}
AGE_SECONDS_WANTED = 1.5


def fill_compressible(image: Path, size_bytes: int) -> None:
    """Write blocks of 4 KiB that compress to about half: random, then one letter."""
    with image.open("w+b") as out:
        for _ in range(size_bytes >> 20):
            blocks = (os.urandom(2048) + b"x" * 2048 for _ in range(256))
            out.write(b"".join(blocks))
        out.flush()
        os.fsync(out.fileno())


FILLS = {"incompressible": fill, "compressible": fill_compressible}


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found: dict[str, object] = {"machine": describe_machine()}
    print(
        "| | farshore | nbdcopy, TCP | ratio | wanted | met | nbdcopy, Unix | ratio |\n"
        "|---|---:|---:|---:|---:|---|---:|---:|"
    )
    for data, link in product(FILLS, RATIO_WANTED):
        name = f"{data}, {link}"
        with tempfile.TemporaryDirectory(prefix="fs-", dir=options.directory) as where:
            size = options.size_mib << 20
            copied = replication.first_copy(
                *(Path(where), size, FILLS[data]),
                encrypted=link == "TLS",
                rounds=options.rounds,
            )
        found[name] = copied
        ours = copied["farshore_bytes_per_second"]
        theirs = copied["nbdcopy_bytes_per_second"]
        unix = copied["nbdcopy_unix_bytes_per_second"]
        met = "yes" if ours / theirs >= RATIO_WANTED[link] else "no"
        print(
            f"| first copy, {name} | {ours / 1e6:.0f} MB/s | {theirs / 1e6:.0f} MB/s "
            f"| **{ours / theirs:.2f}** | {RATIO_WANTED[link]} | {met} "
            f"| {unix / 1e6:.0f} MB/s | {ours / unix:.2f} |",
            flush=True,
        )
    with tempfile.TemporaryDirectory(prefix="fs-", dir=options.directory) as where:
        ages = replication.age(Path(where), options.seconds)
    found["age"] = ages
    oldest = ages["p99_seconds"]
    met = "yes" if oldest <= AGE_SECONDS_WANTED else "no"
    print(
        f"| age p99 (p50 {ages['p50_seconds']:.2f} s) | **{oldest:.2f} s** | | | "
        f"{AGE_SECONDS_WANTED} s | {met} | | |"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="wan_throughput.py", description=__doc__.partition("\n\n")[2]
    )
    add = parser.add_argument
    add("--seconds", type=float, default=15.0, help="how long the age is watched")
    add("--rounds", type=int, default=3, help="of each copy")
    add("--size-mib", type=int, default=1024, help="size of what is copied")
    add("--json", type=Path, help="write everything measured here")
    add("--directory", type=Path, help="where images go (a real disk)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
