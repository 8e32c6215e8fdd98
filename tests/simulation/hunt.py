"""Hunt: run many seeds of the two-site simulation, or one again with its trace.

python -m tests.simulation.hunt --seeds 10000
python -m tests.simulation.hunt --circles --seeds 10000    a twelfth: roles go round
python -m tests.simulation.hunt --seed 4711      prints every event of that run
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from tests.support.evidence import commit, record
from tests.support.simulation.campaign import Totals, outcomes
from tests.support.simulation.seeds import goes_round, simulate

PROGRESS_SECONDS = 10.0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, help="one seed, with its trace")
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--seeds", type=int, default=10_000)
    options.add_argument("--circles", action="store_true", help="those alone")
    options.add_argument("--seconds", type=float, help="stop after so long")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options.add_argument("--failures", type=int, default=10, help="stop after so many")
    chosen = options.parse_args()
    if chosen.seed is not None:
        return _again(chosen.seed)
    return _hunt(chosen)


def _again(seed: int) -> int:
    outcome = simulate(seed, keep_trace=True)
    print("\n".join(outcome.trace))
    for problem in outcome.problems:
        print(problem)
    print(f"seed {seed}: {'FAILED' if outcome.problems else 'held'}, {outcome.digest}")
    return bool(outcome.problems)


def _hunt(chosen: argparse.Namespace) -> int:
    seeds: Sequence[int] = range(chosen.first, chosen.first + chosen.seeds)
    if chosen.circles:
        seeds = [seed for seed in seeds if goes_round(seed)]
    print(f"seeds {seeds[0]} to {seeds[-1]} at {commit()[:12]}", flush=True)
    began = told = time.monotonic()
    totals = Totals()
    for outcome in outcomes(seeds, chosen.jobs):
        totals.add(outcome)
        now = time.monotonic()
        if outcome.problems:
            print(f"seed {outcome.seed}: {outcome.problems[0]}")
            print(f"  again: {outcome.again}", flush=True)
        if now - told > PROGRESS_SECONDS:
            told = now
            rate = totals.seeds / (now - began)
            print(f"  {totals.seeds} of {len(seeds)}, {rate:.1f} a second", flush=True)
        if totals.failed == chosen.failures:
            break
        if chosen.seconds is not None and now - began > chosen.seconds:
            break
    took = time.monotonic() - began
    print(f"{totals}; {took:.0f} s, {totals.seeds / took:.1f} seeds a second")
    record("simulation", " ".join(["make hunt", *sys.argv[1:]]), totals.figures())
    return bool(totals.failed)


if __name__ == "__main__":
    sys.exit(main())
