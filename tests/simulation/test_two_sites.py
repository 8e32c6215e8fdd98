"""Both sites, their disks, links and clocks simulated: many disasters a second."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.simulation.regressions import REGRESSIONS
from tests.support.simulation.scenario import Outcome, simulate

pytestmark = [
    # Of killed processes, found by the garbage collector at any time.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SECONDS = float(os.environ.get("FARSHORE_SIMULATION_SECONDS", "40"))
"""How long to run new seeds; a seed that has begun is finished."""

SEEDS_MIN = 100
"""A fifth of what an idle core of 2026 does in 40 s: less means that the
simulation has become slow, not that the machine is."""


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Leave no dead process to be found in the middle of another test."""
    yield
    gc.collect()


_AGAIN = """
import sys
from tests.support.simulation.scenario import simulate
for seed in map(int, sys.argv[1:]):
    outcome = simulate(seed)
    print(seed, outcome.digest, outcome.steps, outcome.problems)
"""


def test_no_disaster_breaks_a_promise() -> None:
    end = time.monotonic() + SECONDS
    outcomes: list[Outcome] = []
    while len(outcomes) < SEEDS_MIN or time.monotonic() < end:
        outcome = simulate(len(outcomes))
        outcome.check()
        outcomes.append(outcome)
    kinds = {kind for outcome in outcomes for kind in outcome.faults}
    print(f"{len(outcomes)} seeds, {sum(o.commits for o in outcomes)} commits")
    # What the seeds did has to be worth something, or their holding is not.
    assert len(kinds) == 18
    assert sum(o.commits for o in outcomes) > 2 * len(outcomes)
    assert sum(o.starts for o in outcomes) > 3 * len(outcomes)
    assert sum(o.writes for o in outcomes) > 50 * len(outcomes)


@pytest.mark.parametrize("seed", REGRESSIONS, ids=REGRESSIONS.get)
def test_what_once_broke_a_promise_does_not_again(seed: int) -> None:
    simulate(seed).check()


def test_one_seed_is_one_run_whatever_the_hashes() -> None:
    """Two processes with other hashes of strings, and one that runs them twice."""
    seeds = [str(seed) for seed in range(4)]

    def told(hash_seed: str, order: list[str]) -> list[str]:
        ran = subprocess.run(
            [sys.executable, "-c", _AGAIN, *order],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout.splitlines()

    once = told("1", seeds)
    twice = told("2", [*reversed(seeds), *seeds])
    assert len(set(once)) == len(seeds)
    assert twice[len(seeds) :] == once
    assert twice[: len(seeds)] == once[::-1]
