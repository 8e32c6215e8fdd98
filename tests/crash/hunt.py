"""Hunt: power cuts of every component until so many distinct images held.

python -m tests.crash.hunt --images 1000000
python -m tests.crash.hunt --component primary --seed 4711    one run again
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator

from tests.support.crash.campaign import (
    COMPONENTS,
    Campaign,
    Outcome,
    Task,
    outcomes,
    run_task,
    tasks_of,
)
from tests.support.evidence import commit, record

PROGRESS_SECONDS = 10.0


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--images", type=int, default=1_000_000, help="distinct ones")
    options.add_argument("--first-seed", type=int, default=0)
    options.add_argument("--component", choices=sorted(COMPONENTS))
    options.add_argument("--seed", type=int, help="one seed of one component")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options.add_argument("--failures", type=int, default=10, help="stop after so many")
    chosen = options.parse_args()
    if chosen.seed is not None and chosen.component is None:
        options.error("--seed needs --component")
    if chosen.seed is not None:
        return _again((chosen.component, chosen.seed))
    return _hunt(chosen)


def _again(task: Task) -> int:
    outcome = run_task(task)
    campaign = Campaign()
    campaign.add(outcome)
    print(campaign.figures()["components"])
    print(outcome.problem or "held")
    return outcome.problem is not None


def _rounds(names: list[str], first: int, jobs: int) -> Iterator[Outcome]:
    """Run the usual campaign for ever, each time on seeds that are new."""
    for number in itertools.count():
        usual = tasks_of(names)
        yield from outcomes(
            [
                (name, first + seed + number * COMPONENTS[name].seeds)
                for name, seed in usual
            ],
            jobs,
        )


def _hunt(chosen: argparse.Namespace) -> int:
    names = [chosen.component] if chosen.component else list(COMPONENTS)
    print(f"{', '.join(names)} from seed {chosen.first_seed} at {commit()[:12]}")
    began = told = time.monotonic()
    campaign = Campaign()
    for outcome in _rounds(names, chosen.first_seed, chosen.jobs):
        campaign.add(outcome)
        if outcome.problem:
            print(f"{outcome.component}, seed {outcome.seed}: {outcome.problem}")
        now, distinct = time.monotonic(), campaign.distinct
        if now - told > PROGRESS_SECONDS:
            told = now
            rate = distinct / (now - began)
            print(f"  {distinct:,} distinct images, {rate:,.0f} a second", flush=True)
        if distinct >= chosen.images or len(campaign.problems) >= chosen.failures:
            break
    for name, totals in sorted(campaign.components.items()):
        print(f"{name}: {totals.figures()}")
    took = time.monotonic() - began
    print(f"{campaign.distinct:,} distinct images in {took:.0f} s, ", end="")
    print(f"{len(campaign.problems)} violations")
    record(
        "crash_images",
        " ".join(["python -m tests.crash.hunt", *sys.argv[1:]]),
        campaign.figures(),
    )
    return bool(campaign.problems)


if __name__ == "__main__":
    sys.exit(main())
