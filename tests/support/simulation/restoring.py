"""Operators put an older copy back: of a whole machine, or of a state directory.

A copy is what a snapshot of a virtual machine holds. What was promised since the copy
was taken is lost by the operator's will; what is promised from then on is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.replication.lineage import CycleName, ReceiverState, SenderState
from common.storage.record import DurableRecord
from primary_site import group_state
from remote_site import store_state
from remote_site.store_record import RECORD_NAME
from tests.lineage import specification
from tests.support.simulated_files import SimulatedFiles
from tests.support.simulation.durability import device_bytes
from tests.support.simulation.model import VolumeModel
from tests.support.simulation.oracle import Promised
from tests.support.simulation.sites import GROUP, STATE

if TYPE_CHECKING:
    from tests.support.simulation.scenario import Simulation


QUIET_SECONDS = 0.1
"""How often an operator looks whether the remote is quiet."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """A machine as it was once, and what had been promised of it by then."""

    files: SimulatedFiles
    promised: Promised
    cycle_number: int
    models: dict[str, VolumeModel]
    lost_power: bool = False
    """Power was lost, and hosts have not looked since."""


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
        self.is_of_another_time = False
        """A state directory is beside devices of other lengths: no start may serve."""
        self.count = 0

    @property
    def is_away(self) -> bool:
        """An older copy runs, whose newest state is still to be put back."""
        return self._newest is not None

    # -- the remote --------------------------------------------------------------------

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
            oracle.durability.is_rolled_back = True
            self.count += 1
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
        """Take the machine down, and go on with a copy once the remote is quiet."""
        simulation, site = self._simulation, self._simulation.primary
        simulation.note_lost_pages()
        site.die(power=False)
        simulation.network.forget(site.loop)
        self._once_quiet(copy, site.lives, only_state, seconds)

    def _once_quiet(
        self, copy: _Copy, lives: int, only_state: bool, seconds: float
    ) -> None:
        """Go on with the copy, unless the machine has been started meanwhile."""
        simulation, site = self._simulation, self._simulation.primary
        if site.lives != lives:
            return
        if simulation.is_healing:
            simulation.start_later(site)
        elif self._is_remote_quiet():
            self._go_on_with(copy, only_state=only_state, seconds=seconds)
        else:
            simulation.world.after(
                QUIET_SECONDS, self._once_quiet, copy, lives, only_state, seconds
            )

    def _is_remote_quiet(self) -> bool:
        """Tell whether the remote has made durable all that it ever will.

        A queue, or a thread that hangs, may still hold what the newest state has sent:
        the remote learns of it once the copy runs, and refuses that from then on. Which
        of the two it will be nobody can tell before.
        """
        site = self._simulation.remote
        if not (site.is_alive and site.is_serving) or site.loop.is_frozen:
            return False
        group, store = site.group, site.store
        return (
            group is not None
            and (store is not None and store.failed is None)
            and group.session is None
            and not group._admission.locked()
        )

    def _go_on_with(self, copy: _Copy, *, only_state: bool, seconds: float) -> None:
        """Start with a copy; for a while only where the remote has to refuse it.

        The operator puts the newest back then. Hosts keep still meanwhile: what they
        wrote the newest state would not know of.

        A state directory alone, of which the remote has heard nothing since, is not
        put back: nobody can notice, as docs/internals/lineage.md says.
        """
        simulation, oracle = self._simulation, self._simulation.oracle
        self._is_only_state = only_state
        self.is_of_another_time = only_state and self._has_other_lengths(copy)
        if self.is_of_another_time or self._must_refuse(copy):
            self._newest = self._as_it_is()
            oracle.is_older_state = True
            simulation.hosts.is_active = False
            simulation.world.after(seconds, self.put_newest_back)
        elif only_state:
            simulation.start_later(simulation.primary)
            return
        else:
            for number in [n for n in oracle.cycle_ids if n > copy.cycle_number]:
                del oracle.cycle_ids[number]  # nobody knows of those any more
        self.count += 1
        self._start_with(copy)

    def _has_other_lengths(self, copy: _Copy) -> bool:
        """Tell whether a copied state directory knows devices by other lengths."""
        state = _sent_state(copy)
        files = self._simulation.primary.machine.files
        return state is not None and any(
            len(device_bytes(files, name))
            not in {volume.size_bytes, volume.growing_bytes}
            for name, volume in state.volumes.items()
        )

    def _must_refuse(self, copy: _Copy) -> bool:
        """Tell whether the remote remembers what the copy has not seen.

        By a reading of the page that is not the product's own: the product's would
        excuse whatever it lets pass.
        """
        site = self._simulation.remote
        state = _sent_state(copy)
        if state is None:
            return False
        # What its acked bits rely on decides what is compared, not what is refused.
        sender = state.judged(progress_count=0)
        path = f"{site.settings.state_directory}/{RECORD_NAME}"
        stored = DurableRecord(path, site.machine.copied()).load()
        receiver = ReceiverState()
        if stored is not None:
            known = store_state.from_record(stored, path)
            receiver = known.judged()
            if any(
                state.volumes[volume.name].size_bytes < volume.size_bytes
                for volume in known.volumes
            ):
                return True  # it has followed a growth
        return _rule(sender, receiver) <= specification.LAST_REFUSAL

    def _as_it_is(self) -> _Copy:
        models = self._simulation.hosts.models
        return _Copy(
            self._simulation.primary.machine.copied(),
            self._simulation.oracle.promised,
            0,
            {name: model.copied() for name, model in models.items()},
            self._simulation.oracle.lost_power,
        )

    def put_newest_back(self) -> None:
        """End what an operator has tried, if one is trying."""
        newest, self._newest = self._newest, None
        if newest is not None:
            self.is_of_another_time = False
            self._simulation.world.note("the newest copy is put back")
            self._start_with(newest)
            self._simulation.oracle.is_older_state = False
            self._simulation.hosts.is_active = True

    def _start_with(self, copy: _Copy) -> None:
        simulation, site = self._simulation, self._simulation.primary
        site.die(power=False)
        site.start_error = None
        simulation.network.forget(site.loop)
        if self._is_only_state:
            simulation.note_lost_pages()
            site.machine.restore_directory(STATE, copy.files)
        else:
            site.machine.restore(copy.files)
            models = {name: model.copied() for name, model in copy.models.items()}
            simulation.hosts.models.update(models)
            simulation.oracle.lost_power = copy.lost_power
            simulation.note_lost_pages()
        simulation.start_later(site)


def _sent_state(copy: _Copy) -> group_state.GroupState | None:
    """Return what a copied state directory says; None of a group that never ran."""
    path = f"{STATE}/groups/{GROUP}/group.record"
    stored = DurableRecord(path, copy.files.after_kill()).load()
    return None if stored is None else group_state.from_record(stored, path)


def _rule(sender: SenderState, receiver: ReceiverState) -> int:
    primary = specification.Primary(
        group=sender.group_id.hex(),
        lineage=sender.lineage.hex(),
        epoch=sender.epoch,
        receipt=sender.receipt.hex(),
        newest=_cycle(sender.newest),
        committed=_cycle(sender.committed),
        relation=sender.relation_id.hex(),
        progress=sender.progress_count,
    )
    remote = specification.Remote(
        group=_hex(receiver.group_id),
        lineage=_hex(receiver.lineage),
        shown_epoch=receiver.shown_epoch,
        shown=receiver.shown.hex(),
        offered=receiver.given.hex(),
        begun=_cycle(receiver.begun),
        committed=_cycle(receiver.committed),
        known=receiver.is_noted,
        relation=receiver.relation_id.hex(),
        progress=receiver.progress_count,
    )
    return specification.rule(primary, remote)


def _hex(identity: bytes | None) -> str | None:
    return None if identity is None else identity.hex()


def _cycle(name: CycleName | None) -> specification.Cycle:
    return None if name is None else (name.number, name.cycle_id.hex())
