"""Hunt: run many seeds of the two-site simulation, or one again with its trace.

python -m tests.simulation.hunt --seeds 10000
python -m tests.simulation.hunt --seed 4711      prints every event of that run
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.support.simulation.scenario import COMMAND, Outcome, simulate


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, help="one seed, with its trace")
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--seeds", type=int, default=10_000)
    options.add_argument("--seconds", type=float, help="stop after so long")
    options.add_argument("--failures", type=int, default=10, help="stop after so many")
    chosen = options.parse_args()
    if chosen.seed is not None:
        return _again(chosen.seed)
    return _hunt(chosen.first, chosen.seeds, chosen.seconds, chosen.failures)


def _again(seed: int) -> int:
    outcome = simulate(seed, keep_trace=True)
    print("\n".join(outcome.trace))
    for problem in outcome.problems:
        print(problem)
    print(f"seed {seed}: {'FAILED' if outcome.problems else 'held'}, {outcome.digest}")
    return bool(outcome.problems)


def _hunt(first: int, count: int, seconds: float | None, failures_max: int) -> int:
    began = time.monotonic()
    outcomes: list[Outcome] = []
    failed = 0
    for seed in range(first, first + count):
        outcome = simulate(seed)
        outcomes.append(outcome)
        if outcome.problems:
            failed += 1
            print(f"seed {seed}: {outcome.problems[0]}")
            print(f"  again: {COMMAND.format(seed=seed)}", flush=True)
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


if __name__ == "__main__":
    sys.exit(main())
