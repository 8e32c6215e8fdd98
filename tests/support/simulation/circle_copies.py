"""An older copy of one site's machine, put back between two changes of roles.

Of a site that receives: what it lacks is compared. Of one that sends: it goes on, where
the other has heard of nothing since; else it is refused, and an operator takes over at
the other site. Of one that has been taken over from: it is told so once more, and what
the copy had becomes a fork.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.simulated_files import SimulatedFiles
from tests.support.simulation.circle_sites import CircleSite
from tests.support.simulation.model import VolumeModel

if TYPE_CHECKING:
    from tests.support.simulation.circle import CircleSimulation
    from tests.support.simulation.circle_oracle import Images

QUIET_SECONDS = 0.1
QUIET_TRIES_MAX = 60
"""A site that can't start, for its disk fails, never comes to rest."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """A site as it was once, and what had been promised of it by then."""

    site: CircleSite
    role: str
    lineage: bytes
    files: SimulatedFiles
    models: dict[str, VolumeModel]
    promised: int
    forks: dict[int, Images]
    lost_power: bool


class CircleCopies:
    """At most one copy, which is put back once."""

    def __init__(self, simulation: CircleSimulation) -> None:
        self._simulation = simulation
        self._copy: _Copy | None = None
        self.count = 0
        self.site: CircleSite | None = None
        """Is down until its copy is put back; nobody else is to start it."""

    @property
    def is_under_way(self) -> bool:
        return self.site is not None

    @property
    def has_one(self) -> bool:
        return self._copy is not None

    def take(self, site: CircleSite) -> None:
        """Copy the machine as it is, in the middle of what it does."""
        lineage = _lineage(site)
        if self._copy is not None or self.count or lineage is None:
            return
        oracle = self._simulation.oracle
        line = oracle.lines.get(lineage)
        models = {}
        if line is not None and line.site is site:
            models = {name: m.copied() for name, m in line.hosts.models.items()}
        self._copy = _Copy(
            site,
            site.role,
            lineage,
            site.machine.copied(),
            models,
            oracle.promised.get(site.name, 0),
            dict(oracle.forks.get(site.name, {})),
            site.lost_power,
        )
        self._simulation.world.note(f"{site.name} is copied as it is {site.role}")

    def put_back(self) -> bool:
        """Put the copy back, wherever its site has come to since."""
        copy = self._copy
        if copy is None or not copy.site.is_alive:
            return False
        self._copy, self.site = None, copy.site
        site, simulation = copy.site, self._simulation
        simulation.world.note(f"{site.name}: a copy is to be put back")
        site.die(power=False)
        for loop in site.loops:
            simulation.network.forget(loop)
        self._once_quiet(copy, site.lives, QUIET_TRIES_MAX)
        return True

    def _once_quiet(self, copy: _Copy, lives: int, tries: int) -> None:
        """Wait until the other site has made durable all that it was sent."""
        simulation, site = self._simulation, copy.site
        if site.lives != lives:
            self.site = None
        elif not tries or simulation.is_quiet(simulation.other(site)):
            self.site = None
            self._go_on_with(copy)
        else:
            simulation.world.after(
                QUIET_SECONDS, self._once_quiet, copy, lives, tries - 1
            )

    def _go_on_with(self, copy: _Copy) -> None:
        site, oracle = copy.site, self._simulation.oracle
        site.machine.restore(copy.files)
        oracle.promised[site.name] = copy.promised
        oracle.forks[site.name] = dict(copy.forks)
        if copy.models:
            line = oracle.lines[copy.lineage]
            line.hosts.models.update(copy.models)
            line.is_handed_over = False  # it knows of no agreement, until it is told
        site.lost_power = copy.lost_power
        self.count += 1
        self._simulation.world.note(f"{site.name}: the copy is put back")
        self._simulation.start_later(site)


def _lineage(site: CircleSite) -> bytes | None:
    """Return the line that a site sends or receives, if it does just that."""
    if site.role == "sending" and site.sent is not None:
        return site.sent.group.state.lineage
    if site.role == "receiving" and site.received is not None:
        return site.received.store.lineage
    return None
