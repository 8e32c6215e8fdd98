"""Sites that die amid an exchange of roles, or as a volume grows."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.support.simulation.circle_sites import CircleSite

if TYPE_CHECKING:
    from tests.support.simulation.circle import CircleSimulation

DEATHS_MAX = 6
STEPS = ("handing", "asks", "dr gave up", "amsterdam gave up", "dr begins")
"""Beginnings of events in the trace."""

DELAYS = (0.0, 0.01, 0.1, 0.4)
"""From a step of a change of roles until somebody dies."""

CUT_OFF_SECONDS = 3.0
"""For so long, sometimes, it hears of nobody once it is back."""

OPERATIONS_MAX = 70
"""On a disk, until its site dies: about what a change of roles takes there."""

GROWTH_OPERATIONS_MAX = 25
"""The same of a growth, at the site that sends or at the one that follows."""


class CircleDeaths:
    """`count` of those that were prepared; a few in a run."""

    def __init__(self, simulation: CircleSimulation, rng: random.Random) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._rng = rng
        self._left = rng.randrange(DEATHS_MAX + 1)
        self.count = 0

    def no_more(self) -> None:
        self._left = 0
        self._world.awaited = None

    def perhaps(self) -> None:
        """A site dies at some operation on its disk, or just after a step of a role."""
        simulation, rng = self._simulation, self._rng
        if not self._left or rng.random() < 0.7:
            return
        site = rng.choice(simulation.circle_sites)
        if site.machine.fuse or not site.is_alive:
            return
        self._left -= 1
        self.count += 1
        blow = self._blow(site, rng)
        if rng.random() < 0.5:
            delay = rng.choice(DELAYS) * rng.random()
            self._world.awaited = rng.choice(STEPS), delay, blow
        else:
            site.machine.fuse = rng.randrange(1, OPERATIONS_MAX)
            site.machine.blow = blow

    def at_growth(self, sender: CircleSite, rng: random.Random) -> None:
        """Who sends dies at a step of a growth, or who follows at one of its own."""
        if self._simulation.is_healing or rng.random() < 0.5:
            return
        if rng.random() < 0.5:
            self._light(sender, rng)
            return
        receiver = self._simulation.other(sender)
        self._world.awaited = "grown", 0.0, lambda: self._light(receiver, rng)

    def _light(self, site: CircleSite, rng: random.Random) -> None:
        if site.is_alive and not site.machine.fuse:
            self.count += 1
            site.machine.fuse = rng.randrange(1, GROWTH_OPERATIONS_MAX)
            site.machine.blow = self._blow(site, rng)

    def _blow(self, site: CircleSite, rng: random.Random) -> Callable[[], None]:
        simulation = self._simulation
        power, is_cut_off = rng.random() < 0.5, rng.random() < 0.3

        def blow() -> None:
            if not site.is_alive:
                return
            simulation.kill(site, power=power)
            if is_cut_off:
                simulation.network.is_down = True
                simulation.network.swallowed |= {"out", "back"}
                self._world.after(CUT_OFF_SECONDS, simulation.network.heal)

        return blow
