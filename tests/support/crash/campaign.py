"""Many seeds of every component in several processes, and what they add up to.

The work of `make test` is a fixed list of seeds, so that what it looks at depends on
no clock. An image counts as distinct by the content of all that recovery reads, over
the whole campaign.
"""

from __future__ import annotations

import gc
import multiprocessing
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tests.support.adoption_explorer import AdoptionExploration
from tests.support.crash.bitmap_explorer import BitmapExploration
from tests.support.crash.exploration import Exploration, ViolationError
from tests.support.crash.journal_explorer import JournalExploration
from tests.support.crash.record_explorer import RecordExploration
from tests.support.crash.region_log_explorer import RegionLogExploration
from tests.support.crash.regressions import REGRESSIONS
from tests.support.evidence import Figure
from tests.support.failback_explorer import FailbackExploration
from tests.support.primary_explorer import PrimaryExploration
from tests.support.remote_store_explorer import RemoteExploration
from tests.support.reshaping_explorer import ReshapingExploration
from tests.support.takeover_explorer import TakeoverExploration

Digests = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Component:
    """`seeds` is its share of a campaign of `make test`; of these, at least
    `images_min` distinct images have to come."""

    kind: type[Exploration]
    images_per_step: int
    seeds: int
    images_min: int

    def exploration(self, seed: int) -> Exploration:
        return self.kind(seed, images_per_step=self.images_per_step)


COMPONENTS = {
    component.kind.COMPONENT: component
    for component in (
        Component(RecordExploration, 40, 120, 32_000),
        Component(BitmapExploration, 40, 80, 33_000),
        Component(RegionLogExploration, 40, 100, 34_000),
        Component(JournalExploration, 40, 70, 20_000),
        Component(PrimaryExploration, 10, 50, 43_000),
        Component(RemoteExploration, 12, 48, 43_000),
        Component(ReshapingExploration, 6, 6, 4_000),
        Component(AdoptionExploration, 12, 8, 400),
        Component(TakeoverExploration, 8, 10, 2_000),
        Component(FailbackExploration, 8, 6, 2_500),
    )
}
IMAGES_MIN = 200_000

Task = tuple[str, int]
"""(component, seed)."""


@dataclass(slots=True)
class Outcome:
    """What became of one seed."""

    component: str
    seed: int
    problem: str | None
    steps: int = 0
    tried: int = 0
    recoveries: int = 0
    recovery_crashes: int = 0
    kills: int = 0
    distinct: Digests = field(default_factory=lambda: np.empty(0, np.uint64))


def run_task(task: Task) -> Outcome:
    """Run one seed; whatever is raised is a problem, with the way to see it again."""
    name, seed = task
    problem = None
    exploration: Exploration | None = None
    try:
        exploration = COMPONENTS[name].exploration(seed)
        exploration.run()
    except ViolationError as error:
        problem = str(error)
    except Exception:  # noqa: BLE001 - told as this seed's
        problem = traceback.format_exc()
    if problem is not None and "again:" not in problem:
        problem += f"\n  again: python -m tests.crash.hunt --component {name!r}"
        problem += f" --seed {seed}"
    outcome = Outcome(name, seed, problem)
    if exploration is not None:
        tally = exploration.tally
        outcome.steps, outcome.tried = tally.steps, tally.tried
        outcome.recoveries, outcome.kills = tally.recoveries, tally.kills
        outcome.recovery_crashes = tally.recovery_crashes
        outcome.distinct = np.fromiter(tally.distinct, np.uint64, len(tally.distinct))
    del exploration
    gc.collect()
    return outcome


def _freeze() -> None:
    """What the modules hold is no garbage: do not look at it after every run."""
    gc.collect()
    gc.freeze()


def outcomes(tasks: Iterable[Task], jobs: int) -> Iterator[Outcome]:
    """Yield what became of each task, as they end, from so many processes.

    Those end with the iterator, also if it is left early.
    """
    with multiprocessing.get_context("spawn").Pool(jobs, _freeze) as pool:
        yield from pool.imap_unordered(run_task, tasks)


def tasks_of(names: Iterable[str]) -> list[Task]:
    """Return the tasks of a usual campaign, the longest first."""
    found = [(name, seed) for name in names for seed in range(COMPONENTS[name].seeds)]
    longest = {"primary": 0, "remote": 1}
    return sorted(found, key=lambda task: longest.get(task[0], 2))


@dataclass(slots=True)
class Totals:
    """Sums over the seeds of one component."""

    seeds: int = 0
    steps: int = 0
    tried: int = 0
    recoveries: int = 0
    recovery_crashes: int = 0
    kills: int = 0
    digests: list[Digests] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.steps += outcome.steps
        self.tried += outcome.tried
        self.recoveries += outcome.recoveries
        self.recovery_crashes += outcome.recovery_crashes
        self.kills += outcome.kills
        self.digests.append(outcome.distinct)
        if outcome.problem is not None:
            self.problems.append(outcome.problem)

    @property
    def distinct(self) -> int:
        if len(self.digests) > 1:
            self.digests = [np.unique(np.concatenate(self.digests))]
        return sum(len(digests) for digests in self.digests)

    def figures(self) -> dict[str, int]:
        return {
            "seeds": self.seeds,
            "steps": self.steps,
            "images": self.tried,
            "distinct_images": self.distinct,
            "recoveries": self.recoveries,
            "crashes_of_recoveries": self.recovery_crashes,
            "kills": self.kills,
            "violations": len(self.problems),
        }


class Campaign:
    """What was found so far, by component."""

    def __init__(self) -> None:
        self.components: dict[str, Totals] = {}

    def add(self, outcome: Outcome) -> None:
        self.components.setdefault(outcome.component, Totals()).add(outcome)

    def run(self, names: Iterable[str], jobs: int = 2) -> None:
        """Run the usual seeds of the components that were not run yet, and those
        that once failed."""
        missing = [name for name in names if name not in self.components]
        tasks = tasks_of(missing)
        again = [task for task in REGRESSIONS if task[0] in missing]
        tasks += [task for task in again if task not in tasks]
        for outcome in outcomes(tasks, jobs):
            self.add(outcome)

    @property
    def distinct(self) -> int:
        return sum(totals.distinct for totals in self.components.values())

    @property
    def problems(self) -> list[str]:
        return [p for totals in self.components.values() for p in totals.problems]

    def figures(self) -> dict[str, Figure]:
        """Return what the evidence says: sums, and each component's own."""
        each = {n: t.figures() for n, t in sorted(self.components.items())}
        found: dict[str, Figure] = {
            key: sum(figures[key] for figures in each.values())
            for key in Totals().figures()
        }
        found["components"] = each
        return found
