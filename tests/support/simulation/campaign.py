"""Many seeds in several processes, and what they add up to."""

from __future__ import annotations

import gc
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

from tests.support.evidence import Figure
from tests.support.simulation.scenario import Outcome, simulate

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
    """Sums over seeds."""

    seeds: int = 0
    failed: int = 0
    simulated_seconds: float = 0.0
    cuts: int = 0
    commits: int = 0
    images_compared: int = 0
    starts: int = 0
    shadow_power_losses: int = 0
    acked_tracks_compared: int = 0
    host_writes: int = 0
    point_reads: int = 0
    copies_put_back: int = 0
    growths: int = 0
    merges: int = 0
    lacks_of_room_said: int = 0
    verifies_clean: int = 0
    tracks_mended: int = 0
    takeovers: int = 0
    takeovers_older: int = 0
    takeover_deaths: int = 0
    takeover_writes: int = 0
    kills: int = 0
    power_losses: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.failed += bool(outcome.problems)
        self.simulated_seconds += outcome.simulated_seconds
        self.cuts += outcome.cuts
        self.commits += outcome.commits
        self.images_compared += outcome.points_compared
        self.starts += outcome.starts
        self.shadow_power_losses += outcome.shadows
        self.acked_tracks_compared += outcome.acked_compared
        self.host_writes += outcome.writes
        self.point_reads += outcome.point_reads
        self.copies_put_back += outcome.copies_put_back
        self.growths += outcome.growths
        self.merges += outcome.merges
        self.lacks_of_room_said += outcome.lacks_of_room_said
        self.verifies_clean += outcome.verifies_clean
        self.tracks_mended += outcome.tracks_mended
        self.takeovers += outcome.takeovers
        self.takeovers_older += outcome.takeovers_older
        self.takeover_deaths += outcome.takeover_deaths
        self.takeover_writes += outcome.takeover_writes
        self.kills += outcome.kills
        self.power_losses += outcome.power_losses
        self.faults.update(outcome.faults)
        self.injected.update(outcome.injected)

    def figures(self) -> dict[str, Figure]:
        """Return what the evidence says of such a run."""
        found: dict[str, Figure] = asdict(self)
        found["simulated_seconds"] = round(self.simulated_seconds)
        found["simulated_days"] = round(self.simulated_seconds / SECONDS_PER_DAY, 2)
        found["faults"] = dict(sorted(self.faults.items()))
        found["injected"] = dict(sorted(self.injected.items()))
        return found

    def __str__(self) -> str:
        return (
            f"{self.seeds} seeds, {self.failed} failed: "
            f"{self.simulated_seconds / 3600:.1f} simulated hours, {self.cuts} cuts, "
            f"{self.commits} commits, {self.images_compared} images compared, "
            f"{self.starts} starts, {self.kills} kills, {self.power_losses} power "
            f"losses, {self.shadow_power_losses} more in images, "
            f"{self.host_writes} host writes"
        )
