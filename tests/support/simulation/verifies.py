"""Verifies in the middle of a run: none may ever call equal sites different.

In one seed of four, an operator begins one every few seconds, some with a repair. What
a verify compares is a point with the cut it was made of, whatever is killed, lost or
abandoned meanwhile: a range that it names is a broken promise, of the point or of the
verify itself.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from primary_site.replicator import Replicator
from primary_site.verifying import Verifying

if TYPE_CHECKING:
    from tests.support.simulation.scenario import Simulation

SHARE = 4
"""One seed of so many has verifies: the others stay the runs that they were."""

RATES = (64 << 10, 1 << 20, 1 << 40)
"""Slow ones see many cuts, whose pieces are a few tracks."""


class Verifies:
    """Begins verifies, and looks at what they have found."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._rng = random.Random(f"verifies of {self._world.seed}")
        self._looked_at: Verifying | None = None
        self.begun = 0
        self.clean = 0
        """Ended, everything compared and equal."""

    def begin(self) -> None:
        """Begin, if this seed has verifies."""
        if self._world.seed % SHARE == 1:
            self._world.after(2.0 * self._rng.random(), self._operate)

    def _operate(self) -> None:
        if self._simulation.tampering.is_on:
            return
        self._simulation.operators.ask(self._verify)
        if not self._simulation.is_over:
            self._world.after(0.5 + 4.0 * self._rng.random(), self._operate)

    async def _verify(self, replicator: Replicator) -> None:
        verifying = replicator.verifying
        if verifying.is_running:
            if self._rng.random() < 0.2:
                await verifying.stop()
            return
        repair, rate = self._rng.random() < 0.3, self._rng.choice(RATES)
        verifying.start(repair=repair, rate_bytes=rate)
        self.begun += 1

    def look(self) -> None:
        """Look at the verify under way, or the last one."""
        replicator = self._simulation.primary.replicator
        report = None if replicator is None else replicator.verifying.report()
        if report is None or replicator is None:
            return
        if report.differing:
            where = [
                (r.volume, r.offset_bytes, r.length_bytes) for r in report.differing
            ]
            self._world.problem(f"I1: a verify calls equal sites different: {where}")
        if report.result == "clean" and replicator.verifying.last is not None:
            self.clean += self._looked_at is not replicator.verifying
            self._looked_at = replicator.verifying
        elif report.result is None:
            self._looked_at = None
