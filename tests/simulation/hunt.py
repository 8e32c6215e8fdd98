"""Hunt: run many seeds of the two-site simulation, or one again with its trace.

python -m tests.simulation.hunt --seeds 10000
python -m tests.simulation.hunt --seed 4711      prints every event of that run
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator

from tests.support.simulation.scenario import COMMAND, Outcome, simulate


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, help="one seed, with its trace")
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--seeds", type=int, default=10_000)
    options.add_argument("--seconds", type=float, help="stop after so long")
    options.add_argument("--jobs", type=int, default=os.cpu_count())
    options.add_argument("--failures", type=int, default=10, help="stop after so many")
    chosen = options.parse_args()
    if chosen.seed is not None:
        return _again(chosen.seed)
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    return _hunt(seeds, chosen.seconds, chosen.failures, chosen.jobs)


def _again(seed: int) -> int:
    outcome = simulate(seed, keep_trace=True)
    print("\n".join(outcome.trace))
    for problem in outcome.problems:
        print(problem)
    print(f"seed {seed}: {'FAILED' if outcome.problems else 'held'}, {outcome.digest}")
    return bool(outcome.problems)


def _hunt(seeds: range, seconds: float | None, failures_max: int, jobs: int) -> int:
    began = time.monotonic()
    outcomes: list[Outcome] = []
    failed = 0
    for outcome in _outcomes(seeds, jobs):
        outcomes.append(outcome)
        if outcome.problems:
            failed += 1
            print(f"seed {outcome.seed}: {outcome.problems[0]}")
            print(f"  again: {COMMAND.format(seed=outcome.seed)}", flush=True)
        if failed == failures_max:
            break
        if seconds is not None and time.monotonic() - began > seconds:
            break
    took = time.monotonic() - began
    print(
        f"{len(outcomes)} seeds in {took:.0f} s ({len(outcomes) / took:.1f} a second), "
        f"{failed} failed; {sum(o.simulated_seconds for o in outcomes):.0f} simulated "
        f"seconds, {sum(o.writes for o in outcomes)} writes, "
        f"{sum(o.cuts for o in outcomes)} cuts, "
        f"{sum(o.commits for o in outcomes)} commits, "
        f"{sum(o.points_compared for o in outcomes)} images compared, "
        f"{sum(o.starts for o in outcomes)} starts"
    )
    return bool(failed)


def _outcomes(seeds: range, jobs: int) -> Iterator[Outcome]:
    """Yield what became of each seed, in their order, from several processes."""
    if jobs == 1:
        yield from map(simulate, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(simulate, seeds, chunksize=8)


if __name__ == "__main__":
    sys.exit(main())
