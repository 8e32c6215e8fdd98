"""Both sites, their disks, links and clocks simulated: many disasters a second."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.simulation.regressions import REGRESSIONS
from tests.support.evidence import record
from tests.support.simulation.campaign import Totals, outcomes
from tests.support.simulation.faults import KINDS
from tests.support.simulation.seeds import simulate

pytestmark = [
    # Of killed processes, found by the garbage collector at any time.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEEDS = range(2000)
"""Always the same: what they find is not left to chance. New ones are hunted for
with `make hunt`."""

JOBS = 2


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Leave no dead process to be found in the middle of another test."""
    yield
    gc.collect()


_AGAIN = """
import sys
from tests.support.simulation.seeds import simulate
for seed in map(int, sys.argv[1:]):
    outcome = simulate(seed)
    print(seed, outcome.digest, outcome.steps, outcome.problems)
"""


@pytest.mark.every_core
@pytest.mark.timeout(1200)
def test_no_disaster_breaks_a_promise() -> None:
    totals = Totals()
    for outcome in outcomes(SEEDS, JOBS):
        outcome.check()
        totals.add(outcome)
    print(totals)
    # What the seeds did has to be worth something, or their holding is not.
    counts = totals.counts
    assert totals.seeds == len(SEEDS) >= 2000
    assert set(totals.faults) == set(KINDS)
    assert counts["commits"] > 3 * totals.seeds
    assert counts["starts"] > 3 * totals.seeds
    assert counts["host_writes"] > 50 * totals.seeds
    assert counts["point_reads"] > 10 * totals.seeds
    assert counts["shadow_power_losses"] > 4 * totals.seeds
    assert counts["lacks_of_room_said"] > totals.seeds // 50
    assert counts["growths"] > totals.seeds // 10
    assert counts["references"] > totals.seeds // 20
    assert counts["merges"] > totals.seeds // 20
    assert counts["takeovers"] > totals.seeds // 40
    assert min(counts["takeover_deaths"], counts["takeovers_older"]) > 0
    assert counts["takeover_writes"] > 10 * counts["takeovers"]
    for role in ("circle_takeovers", "failbacks", "switchovers", "forks_kept"):
        assert counts[role] > totals.seeds // 20
    assert counts["circle_growths"] > totals.seeds // 40
    assert counts["second_circles"] > totals.seeds // 40
    for verdict in ("go_on", "send_again", "compare_all"):
        assert counts[f"circle_{verdict}"] > 0, verdict
    for rare in ("reclaims", "forks_deleted", "older_senders_refused"):
        assert counts[rare] > 0, rare
    assert counts["copies_put_back"] > totals.seeds // 10
    assert counts["verifies_clean"] > totals.seeds // 20
    assert counts["tracks_mended"] > totals.seeds // 4
    assert counts["acked_tracks_compared"] > 10 * totals.seeds
    assert min(counts["kills"], counts["power_losses"]) > totals.seeds // 2
    operations = {(kind.split()[0], kind.split()[2]) for kind in totals.injected}
    for operation in ("read", "write", "datasync", "create", "sync_directory"):
        assert (operation, "EIO") in operations
    assert {("write", "ENOSPC"), ("create", "ENOSPC")} <= operations
    record("simulation_in_test", "make test", totals.figures())


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
