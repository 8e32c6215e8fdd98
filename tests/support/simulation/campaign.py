"""Many seeds in several processes, and what they add up to."""

from __future__ import annotations

import gc
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.support.evidence import Figure
from tests.support.simulation.seeds import Outcome, simulate

SECONDS_PER_DAY = 86_400.0
CHUNK_SEEDS = 4


def run_seed(seed: int) -> Outcome:
    """Run one seed of many: the garbage of the last goes before the next begins."""
    outcome = simulate(seed)
    gc.collect()
    return outcome


def outcomes(seeds: Iterable[int], jobs: int) -> Iterator[Outcome]:
    """Yield what became of each seed, in their order, from so many processes.

    Those end with the iterator, also if it is left early.
    """
    with multiprocessing.get_context("spawn").Pool(jobs, _freeze) as pool:
        yield from pool.imap(run_seed, seeds, chunksize=CHUNK_SEEDS)


def _freeze() -> None:
    """What the modules hold is no garbage: do not look at it after every run."""
    gc.collect()
    gc.freeze()
    gc.disable()


@dataclass(slots=True)
class Totals:
    """Sums over seeds; `counts` by the names that the evidence has for them."""

    seeds: int = 0
    failed: int = 0
    simulated_seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.failed += bool(outcome.problems)
        self.simulated_seconds += outcome.simulated_seconds
        self.counts.update(outcome.counts)
        self.faults.update(outcome.faults)
        self.injected.update(outcome.injected)

    def figures(self) -> dict[str, Figure]:
        """Return what the evidence says of such a run."""
        return {
            "seeds": self.seeds,
            "failed": self.failed,
            "simulated_seconds": round(self.simulated_seconds),
            "simulated_days": round(self.simulated_seconds / SECONDS_PER_DAY, 2),
            **self.counts,
            "faults": dict(sorted(self.faults.items())),
            "injected": dict(sorted(self.injected.items())),
        }

    def __str__(self) -> str:
        counts = self.counts
        return (
            f"{self.seeds} seeds, {self.failed} failed: "
            f"{self.simulated_seconds / 3600:.1f} simulated hours, {counts['cuts']} "
            f"cuts, {counts['commits']} commits, {counts['images_compared']} images "
            f"compared, {counts['starts']} starts, {counts['kills']} kills, "
            f"{counts['power_losses']} power losses, "
            f"{counts['shadow_power_losses']} more in images, "
            f"{counts['host_writes']} host writes, {counts['circle_takeovers']} "
            f"takeovers, {counts['failbacks']} failbacks and {counts['switchovers']} "
            "switchovers in circles"
        )
