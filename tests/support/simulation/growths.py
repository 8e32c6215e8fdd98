"""Volumes that operators make larger, at whichever site sends them."""

from __future__ import annotations

import random
from typing import Any

from common.errors import FarshoreError
from primary_site.replicator import Replicator
from tests.support.simulation.hosts import Hosts
from tests.support.simulation.loop import World
from tests.support.simulation.model import SECTOR

SECTORS_MAX = 400
"""A volume grows no further: a run has to stay short."""

SECTORS = (1, 2, 7, 8, 40)
"""By so many: within the last track, by some, past the last region."""


class Growths:
    """All that were asked for in a run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: list[Any] = []

    @property
    def are_under_way(self) -> bool:
        """Tell whether what was asked for is still to come.

        What a killed daemon was about to do its start finishes, or nobody does.
        """
        return any(not (t.done() or t.get_loop().is_dead) for t in self._asked)

    def ask(
        self, loop: Any, replicator: Replicator, hosts: Hosts, name: str, size: int
    ) -> None:
        """Hosts write in what is new once they are told that it is there."""
        world = self._world

        async def asked() -> None:
            try:
                growth = await replicator.grow(name, size)
            except FarshoreError as error:
                world.note(f"refused: {error}")
                return
            if not loop.is_dead:
                hosts.grown(name, growth.size_bytes)
                world.note(f"grown {name} {growth.size_bytes}")

        self._asked.append(world.call(loop, asked()))


def chosen_growth(hosts: Hosts, rng: random.Random) -> tuple[str, int] | None:
    """Return a volume and the size in bytes that it may have next, or None."""
    name = rng.choice(list(hosts.models))
    sectors = hosts.models[name].sectors + rng.choice(SECTORS)
    return (name, sectors * SECTOR) if sectors <= SECTORS_MAX else None
