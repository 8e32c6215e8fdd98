"""One seed: which scenario it runs, and what became of it."""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.evidence import commit, sources_digest
from tests.support.simulation.circle import CircleSimulation
from tests.support.simulation.faults import Faults
from tests.support.simulation.knobs import controlled, quiet_logs
from tests.support.simulation.loop import StuckError, World
from tests.support.simulation.scenario import Simulation
from tests.support.simulation.stand_ins import STAND_INS

CIRCLE_SHARE = 12
"""Of so many seeds one has roles that go round, between whole daemons."""


class FoundError(AssertionError):
    """Something does not hold. Says how to see it again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a seed: `problems` is empty when all held."""

    seed: int
    digest: str
    problems: tuple[str, ...]
    simulated_seconds: float
    steps: int
    counts: dict[str, int]
    faults: dict[str, int]
    injected: dict[str, int]
    trace: tuple[str, ...]

    def check(self) -> None:
        if self.problems:
            raise FoundError(f"{self.problems[0]}\n  again: {self.again}")

    @property
    def again(self) -> str:
        """What to type to see this run again, and with which sources."""
        command = f"python -m tests.simulation.hunt --seed {self.seed}"
        return f"{command}   (at {commit()[:12]}, sources {sources_digest()})"


@contextmanager
def _uncollected() -> Iterator[None]:
    """Leave garbage for after the run: looking for it takes a fifth of the time, and
    what it finds of killed processes must not run in the middle of others."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def goes_round(seed: int) -> bool:
    """Tell whether the roles go round in the run of this seed."""
    return seed % CIRCLE_SHARE == 3


def simulate(seed: int, *, keep_trace: bool = False) -> Outcome:
    """Run one seed."""
    world = World(seed, keep_trace=keep_trace)
    is_circle = goes_round(seed)
    stand_ins = STAND_INS if is_circle else ()
    with _uncollected(), quiet_logs(world), controlled(world, stand_ins):
        simulation = CircleSimulation(world) if is_circle else Simulation(world)
        faults: Faults | None = None
        try:
            faults = simulation.run()
        except StuckError as error:
            world.problem(f"stuck: {error}")
        except Exception as error:  # noqa: BLE001 - told with its traceback
            world.problem(repr(error), error)
        digest, steps, seconds = world.digest, world.steps, world.now
        problems = tuple(_told(*problem) for problem in world.problems)
        world.is_over = True
        simulation.close()
        world.close()
    sites = simulation.sites
    deaths = {
        "kills": sum(site.deaths["kill"] for site in sites),
        "power_losses": sum(site.deaths["power"] for site in sites),
    }
    return Outcome(
        seed=seed,
        digest=digest,
        problems=problems,
        simulated_seconds=seconds,
        steps=steps,
        counts=simulation.counts() | deaths,
        faults=faults.counts if faults else {},
        injected=dict(sum((s.machine.injected for s in sites), Counter())),
        trace=tuple(world.trace),
    )


def _told(text: str, cause: BaseException | None) -> str:
    if cause is None:
        return text
    lines = "".join(traceback.format_exception(cause))
    return f"{text}\n{lines}"
