"""What delta encoding costs hosts: random writes with a cycle a second, on and off.

`python benchmarks/wan_host_cost.py`; both in one run, one after the other, in turn.
Two kinds of writes: noise, where there is nothing to find, and blocks that are
what they were, where every one is looked at and none travels.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.farshore_sites import Pair, connected, idle
from benchmarks.jobs import fio
from benchmarks.processes import wait_until
from benchmarks.servers import fill

SIZE_BYTES = 32 << 20
"""So little that most of it is written again in each cycle."""
KINDS = {
    "noise": ("--refill_buffers",),
    # Every block that fio writes is the same: from the second cycle on all are equal.
    "the same again": ("--refill_buffers", "--buffer_pattern=0x0f5a", "--verify=0"),
}


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(
        "| writes | with delta | without | ratio of the medians | median of the "
        "rounds' ratios |\n|---|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory(prefix="fs-", dir=options.directory) as name:
        for kind in KINDS:
            found: dict[bool, list[float]] = {True: [], False: []}
            for turn in range(options.rounds):
                for delta in (True, False) if turn % 2 == 0 else (False, True):
                    where = Path(name) / f"{turn}-{delta}-{len(kind)}"
                    found[delta].append(
                        _rate(where, kind, options.seconds, delta=delta)
                    )
            on, off = (statistics.median(found[delta]) for delta in (True, False))
            # The machine itself drifts more from round to round than delta costs:
            # the two of one round ran right after each other.
            rounds = [a / b for a, b in zip(found[True], found[False], strict=True)]
            print(
                f"| {kind} | {on:,.0f} /s | {off:,.0f} /s | {on / off:.2f} "
                f"| {statistics.median(rounds):.2f} |",
                flush=True,
            )


def _rate(where: Path, kind: str, seconds: float, *, delta: bool) -> float:
    """Return the writes a second at depth 32, a cut a second."""
    where.mkdir()
    pair = Pair(where, f"{SIZE_BYTES}B", 'interval = "1s"')
    keys = f"delta = {str(delta).lower()}"
    pair.link_through(pair.replication_port, keys)
    fill(pair.image, SIZE_BYTES)
    with connected(pair) as site:
        wait_until(lambda: idle(site), "first copy", 120)
        before = len(pair.cycles())
        result = fio(
            *(pair.uri, "randwrite", 4096, 32, SIZE_BYTES),
            *("--norandommap", "--time_based", f"--runtime={seconds * 1000:.0f}ms"),
            *KINDS[kind],
        )
        cycles = pair.cycles()[before:]
    differenced = sum(int(cycle["tracks_differenced"]) for cycle in cycles)
    print(
        f"{kind}, delta {delta}: {result.operations_per_second:,.0f} a second, "
        f"{len(cycles)} cycles, {differenced} differences",
        file=sys.stderr,
        flush=True,
    )
    for image in (pair.image, where / "remote.img"):
        image.unlink()
    return result.operations_per_second


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a job")
    parser.add_argument("--rounds", type=int, default=3, help="with and without, each")
    parser.add_argument("--directory", type=Path, help="where images go (a real disk)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
