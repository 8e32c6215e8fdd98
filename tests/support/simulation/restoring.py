"""Operators put an older copy back: of a whole machine, or of a state directory.

A copy is what a snapshot of a virtual machine holds. What was promised since the copy
was taken is lost by the operator's will; what is promised from then on is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.simulated_files import SimulatedFiles
from tests.support.simulation.model import VolumeModel
from tests.support.simulation.oracle import Promised
from tests.support.simulation.sites import STATE

if TYPE_CHECKING:
    from tests.support.simulation.scenario import Simulation


@dataclass(frozen=True, slots=True)
class _Copy:
    """A machine as it was once, and what had been promised of it by then."""

    files: SimulatedFiles
    promised: Promised
    cycle_number: int
    models: dict[str, VolumeModel]


class Restoring:
    """At most one copy of each kind is kept at a time."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._remote: _Copy | None = None
        self._state: _Copy | None = None
        self._primary: _Copy | None = None
        self._newest: _Copy | None = None
        """What an operator who was refused puts back."""
        self._is_only_state = False

    # -- the remote --------------------------------------------------------------------

    @property
    def has_remote_copy(self) -> bool:
        return self._remote is not None

    def is_remote_copy_lagging(self) -> bool:
        """Tell whether the primary knows of a newer point than the copy has."""
        simulation, copy = self._simulation, self._remote
        group = simulation.primary.group
        if not simulation.primary.is_serving or group is None or group.cut is not None:
            return False
        newest = group.state.committed_number or 0
        return copy is not None and copy.promised.number < newest

    def remote(self) -> None:
        """Copy the machine; with a copy, put it back: nobody promised it is newer."""
        simulation, copy = self._simulation, self._remote
        site, oracle = simulation.remote, simulation.oracle
        if copy is None:
            self._remote = _Copy(site.machine.copied(), oracle.promised, 0, {})
        elif site.is_alive and self._newest is None:
            self._remote = None
            site.die(power=False)
            site.machine.restore(copy.files)
            oracle.promised = copy.promised
            simulation.start_later(site)

    # -- the primary -------------------------------------------------------------------

    def state(self, *, seconds: float) -> None:
        """Copy the state directory; with a copy, start with it."""
        if self._state is None:
            self._state = self._taken()
        elif self._may_put_back():
            copy, self._state = self._state, None
            self._put_back(copy, only_state=True, seconds=seconds)

    def primary(self, *, seconds: float) -> None:
        """Copy the machine; with a copy, put it back."""
        if self._primary is None:
            self._primary = self._taken()
        elif self._may_put_back():
            copy, self._primary = self._primary, None
            self._put_back(copy, only_state=False, seconds=seconds)

    def _taken(self) -> _Copy | None:
        site, oracle = self._simulation.primary, self._simulation.oracle
        group = site.group
        if not site.is_serving or not site.is_alive or group is None:
            return None
        return _Copy(
            site.machine.copied(),
            oracle.promised,
            group.state.cycle_number,
            {name: m.copied() for name, m in self._simulation.hosts.models.items()},
        )

    def _may_put_back(self) -> bool:
        return self._simulation.primary.is_alive and self._newest is None

    def _put_back(self, copy: _Copy, *, only_state: bool, seconds: float) -> None:
        """Start with a copy; if the remote has a point that it never reached, for a
        while only.

        The remote must refuse it then, and the operator puts the newest back. Hosts
        keep still meanwhile: what they wrote no newest state would know of, as
        `docs/internals/recovery.md` has to say.
        """
        simulation = self._simulation
        self._is_only_state = only_state
        if copy.cycle_number < simulation.oracle.promised.number:
            self._newest = self._as_it_is()
            simulation.oracle.is_older_state = True
            simulation.hosts.is_active = False
            simulation.world.after(seconds, self.put_newest_back)
        self._start_with(copy)

    def _as_it_is(self) -> _Copy:
        models = self._simulation.hosts.models
        return _Copy(
            self._simulation.primary.machine.copied(),
            self._simulation.oracle.promised,
            0,
            {name: model.copied() for name, model in models.items()},
        )

    def put_newest_back(self) -> None:
        """End what an operator has tried, if one is trying."""
        newest, self._newest = self._newest, None
        if newest is not None:
            self._simulation.world.note("the newest copy is put back")
            self._start_with(newest)
            self._simulation.oracle.is_older_state = False
            self._simulation.hosts.is_active = True

    def _start_with(self, copy: _Copy) -> None:
        simulation, site = self._simulation, self._simulation.primary
        site.die(power=False)
        if self._is_only_state:
            simulation.note_lost_pages()
            site.machine.restore_directory(STATE, copy.files)
        else:
            site.machine.restore(copy.files)
            models = {name: model.copied() for name, model in copy.models.items()}
            simulation.hosts.models.update(models)
            simulation.oracle.lost_power = False
            simulation.note_lost_pages()
        simulation.start_later(site)
