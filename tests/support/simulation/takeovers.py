"""The day of the disaster: in some seeds the remote takes over, whatever goes wrong.

It begins in the middle of a run: a cycle half applied, sites down, links cut. The
remote is told to take over from a point, and dies on the way as often as the seed says;
then hosts write there, and it dies again. The old primary lives on, or comes back. In
the end the remote holds the point and what its hosts wrote since, points of before and
after it are what they were, and nothing of the old primary has had an effect.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from common.errors import FarshoreError
from primary_site.group import ConsistencyGroup
from tests.support.simulation.hosts import Hosts
from tests.support.simulation.model import summary

if TYPE_CHECKING:
    from tests.support.simulation.faults import Faults
    from tests.support.simulation.scenario import Simulation

SHARE = 12
"""Of so many seeds one has a takeover."""

SECONDS_MAX = 120.0
DEATHS_MAX = 4
REQUESTS = 60
WORKERS = 4
OPERATIONS_MAX = 70
"""On the disk, until the remote dies: about what a takeover of tiny volumes takes."""


class Takeovers:
    """Runs from `begin` on, until the run is over."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._rng = random.Random(f"takeover of {self._world.seed}")
        self._faults: Faults | None = None
        self._began_at = 0.0
        self._number: int | None = None
        """Of the point that was taken."""
        self._wants_newest = True
        self._asked_life = 0
        self._deaths_left = self._rng.randrange(DEATHS_MAX + 1)
        self._hosts: Hosts | None = None
        self._commits_before = 0
        self.is_on = False
        self.count = 0
        self.older = 0
        self.deaths = 0
        self.writes = 0

    @property
    def is_due(self) -> bool:
        return self._world.seed % SHARE == 5

    def begin(self, faults: Faults) -> bool:
        """Take over now; False if there is nothing to go on from, or nobody to ask."""
        simulation, remote = self._simulation, self._simulation.remote
        store = remote.store
        if not (remote.is_alive and remote.is_serving) or store is None:
            return False
        points = store.disk.state_points
        if store.failed is not None or not points or simulation.restoring.is_away:
            return False
        self.is_on, self._faults = True, faults
        self._began_at = self._world.now
        self._world.note("disaster")
        faults.is_active = faults.is_active and self._rng.random() < 0.5
        faults.leave_copies_alone()
        remote.machine.full.clear()
        self._wants_newest = self._rng.random() < 0.5
        simulation.oracle.durability.is_rolled_back = True
        simulation.hosts.may_be_refused = True
        simulation.shadows.look_again(remote.name)
        remote.on_taken_over = self._opened
        remote.on_hosts_gone = self._gone
        remote.stop_hosts = self._hosts_stop
        if self._rng.random() < 0.6:
            primary = simulation.primary
            if primary.is_alive:
                simulation.kill(primary, power=self._rng.random() < 0.5)
        self.count = 1
        return True

    def go_on(self) -> None:
        """Take a step: ask, let it die, look, and end."""
        world, remote = self._world, self._simulation.remote
        if world.now - self._began_at > SECONDS_MAX:
            world.problem("I11: the takeover does not come to an end")
            return
        if world.now - self._began_at > 20.0:
            self._calm()
        if not (remote.is_alive and remote.is_serving):
            return
        self._perhaps_die()
        if remote.lives != self._asked_life:
            self._asked_life = remote.lives
            self._ask()
        hosts = self._hosts
        if hosts is not None and hosts.budget <= 0 and remote.taken_over is not None:
            self._calm()
            hosts.is_active = False
            if hosts.is_idle and not self._deaths_left and self._is_old_one_told():
                self._judge()

    def _is_old_one_told(self) -> bool:
        """The old primary is back, and knows durably that it is superseded."""
        primary = self._simulation.primary
        group = primary.group
        if not (primary.is_alive and primary.is_serving) or group is None:
            return False
        return group.state.superseded is not None

    def _calm(self) -> None:
        """No more trouble: it has to end now."""
        simulation = self._simulation
        if not simulation.is_healing:
            simulation.is_healing = True
            self._deaths_left = 0
            if self._faults is not None:
                self._faults.is_active = False
            simulation.end_trouble()

    def _perhaps_die(self) -> None:
        """The remote dies at some operation on its disk from here on."""
        remote = self._simulation.remote
        if not self._deaths_left or remote.machine.fuse or self._rng.random() < 0.3:
            return
        self._deaths_left -= 1
        self.deaths += 1
        power = self._rng.random() < 0.6
        remote.machine.fuse = self._rng.randrange(1, OPERATIONS_MAX)
        remote.machine.blow = lambda: self._simulation.kill(remote, power=power)

    def _ask(self) -> None:
        """Ask the remote, as an operator does who sees that it has not ended."""
        remote, takeover = self._simulation.remote, self._simulation.remote.takeover
        assert takeover is not None
        number = self._chosen()

        async def ask() -> None:
            try:
                await takeover.take_over(number, force=True)
            except FarshoreError as error:
                self._world.note(f"takeover: {error}")
                self._asked_life = 0  # again

        self._world.call(remote.loop, ask())

    def _chosen(self) -> int | None:
        """Return the point to ask for: those that were there may have gone since."""
        store = self._simulation.remote.store
        assert store is not None
        if store.takeover is not None:
            return store.takeover.fork.cycle.number
        points = store.disk.state_points
        if self._wants_newest or not points:
            return None
        return self._rng.choice([point.number for point in points])

    # -- hosts at the remote -----------------------------------------------------------

    def _opened(self, group: ConsistencyGroup) -> None:
        """The sending role is open: it has the point, or what hosts made of it."""
        oracle, simulation = self._simulation.oracle, self._simulation
        store = simulation.remote.store
        assert store is not None
        if self._hosts is None:
            assert store.takeover is not None
            self._number = store.takeover.fork.cycle.number
            self.older += self._number != store.points[-1].number
            self._hosts = self._first_hosts(group)
        else:
            for volume in group.volumes:
                model = self._hosts.models[volume.name]
                wrong = model.recovered(
                    oracle.content(_Bare(volume.device, volume.size_bytes)),
                    lost_power=simulation.remote.lost_power,
                )
                if wrong:
                    text = f"{volume.name}: after a restart there {summary(wrong)}"
                    self._world.problem(f"I3: {text}")
        simulation.remote.lost_power = False
        oracle.compare_points(store)
        self._hosts.attach(group, WORKERS)

    def _first_hosts(self, group: ConsistencyGroup) -> Hosts:
        oracle = self._simulation.oracle
        assert self._number is not None
        sizes = {volume.name: volume.size_bytes for volume in group.volumes}
        hosts = Hosts(self._world, self._simulation.remote, sizes, REQUESTS)
        hosts.excuses = (*hosts.excuses, "/journal")
        for volume in group.volumes:
            data = oracle.content(_Bare(volume.device, volume.size_bytes))
            wanted = oracle.cuts[self._number][volume.name]
            if data != wanted.ljust(len(data), b"\0"):
                self._world.problem(
                    f"I1: {volume.name}: taken over, and not as at {self._number}"
                )
            model = hosts.models[volume.name]
            model.recovered(data, lost_power=False)
            model.durable = [list(writes) for writes in model.visible]
        return hosts

    def _gone(self) -> None:
        if self._hosts is not None:
            self.writes += self._hosts.writes_replied
            self._hosts.writes_replied = 0
            self._hosts.detach()

    def _hosts_stop(self) -> bool:
        """The daemon stops: connections are closed first; True once they are."""
        if self._hosts is not None:
            self._hosts.is_active = False
            return self._hosts.is_idle
        return True

    # -- the end -----------------------------------------------------------------------

    def _judge(self) -> None:
        world, remote = self._world, self._simulation.remote
        store: Any = remote.store
        hosts = self._hosts
        group = remote.taken_over
        assert hosts is not None
        assert group is not None
        self.writes += hosts.writes_replied
        hosts.writes_replied = 0
        for volume in group.volumes:
            data = self._simulation.oracle.content(
                _Bare(volume.device, volume.size_bytes)
            )
            wrong = hosts.models[volume.name].wrong_sectors(data, may_be_torn=True)
            if wrong:
                world.problem(f"I8: {volume.name}: in the end {summary(wrong)}")
        self._simulation.oracle.compare_points(store)
        session = remote.group.session if remote.group is not None else None
        if session is not None:
            world.problem("I8: the old primary has a session with one that took over")
        world.note("taken over, and well")
        self._simulation.is_over = True


class _Bare:
    """What the oracle reads of a volume: the device below the preserving one."""

    def __init__(self, device: Any, size_bytes: int) -> None:
        self.device = device._device
        self.size_bytes = size_bytes
