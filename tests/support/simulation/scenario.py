"""One run: two sites, hosts, trouble; then the trouble ends and all must be well.

safety phase   hosts write, things go wrong; nothing that was promised may break
heal phase     nothing goes wrong any more; the newest cut must become safe (I11)
"""

from __future__ import annotations

import random

from primary_site.group import ConsistencyGroup
from primary_site.replicator import Replicator
from primary_site.tickets import CutTicket
from remote_site.store import GroupStore
from tests.support.simulation.alarms import AlarmsWatch
from tests.support.simulation.faults import Faults
from tests.support.simulation.hosts import Hosts
from tests.support.simulation.knobs import (
    chosen_sizes,
    primary_config,
    remote_config,
)
from tests.support.simulation.links import Network
from tests.support.simulation.loop import World
from tests.support.simulation.model import is_wordy
from tests.support.simulation.operators import Operators
from tests.support.simulation.oracle import Oracle
from tests.support.simulation.readers import PointReaders
from tests.support.simulation.references import References
from tests.support.simulation.restoring import Restoring
from tests.support.simulation.shadows import Shadows
from tests.support.simulation.sites import PrimarySite, RemoteSite, Site
from tests.support.simulation.takeovers import Takeovers
from tests.support.simulation.tampering import Tampering
from tests.support.simulation.two_sites import TwoSites
from tests.support.simulation.verifies import Verifies

SAFETY_SECONDS = 12.0
HEAL_SECONDS_MAX = 120.0
"""From the last fault until the newest cut is safe: silence (8 s), a refusal or a
lost handshake (10 s), a few back-offs (5 s each), restarts, a full comparison."""

REQUESTS = 140
SETTLE_SECONDS = 1.0
HISTORY_ODDS = 0.35
"""Of a run whose remote keeps older points and merges those between."""


class Simulation(TwoSites):
    """Both sites and all around them, for one seed."""

    def __init__(self, world: World) -> None:
        rng = world.rng
        sizes = chosen_sizes(rng)
        network = Network(world)
        config = primary_config(rng, sizes, is_wordy=is_wordy(world.seed))
        self.primary = PrimarySite(world, network, config)
        self.remote = RemoteSite(world, network, remote_config(sizes))
        super().__init__(world, network, self.primary, self.remote)
        volumes = {name: size for name, (size, _, _) in sizes.items()}
        self.hosts = Hosts(world, self.primary, volumes, REQUESTS)
        self.hosts.think_seconds = rng.choice((0.005, 0.05, 0.2))
        self.oracle = Oracle(world, self.primary, self.remote, self.hosts)
        self.primary.on_open = self._primary_opened
        self.primary.on_gone = self.hosts.detach
        self.alarms = AlarmsWatch(world, self.primary, self.remote)
        self.remote.on_open = self._remote_opened
        self.primary.writes_at_once = rng.random() < 0.4
        for site in (self.primary, self.remote):
            site.machine.sync_seconds = rng.choice((0.0, 0.01, 0.3))
            site.machine.stops = rng.choice((0.0, 0.05, 0.2))
        self.remote.retained_count = rng.choice((1, 1, 2, 4))
        # By chance of its own: seeds without history do what they always did.
        history = random.Random(world.seed ^ 0x415709)
        if history.random() < HISTORY_ODDS:
            self.remote.every = history.choice((2, 3, 4))
        self.shadows = Shadows(world.seed, self.oracle, self.primary, self.remote)
        self.readers = PointReaders(world, self.remote, self.oracle.cuts)
        self._workers = rng.choice((2, 4, 8))
        self._healed_at = 0.0
        self._ticket: CutTicket | None = None
        self._ticket_life = 0
        self.references = References()
        self.restoring = Restoring(self)
        self.takeovers = Takeovers(self)
        self.verifies = Verifies(self)
        self.tampering = Tampering(self)
        self.operators = Operators(self)

    def close(self) -> None:
        """Unwind what is in the middle of an operation on disk."""
        self.shadows.is_active = False
        self.readers.detach()
        for site in (self.primary, self.remote):
            site.machine.end_jobs()

    def counts(self) -> dict[str, int]:
        """Return what was done and compared, by names of the evidence."""
        oracle = self.oracle
        return {
            "cuts": len(oracle.cuts),
            "commits": oracle.commits,
            "images_compared": oracle.points_compared,
            "starts": oracle.starts_checked,
            "host_writes": self.hosts.writes_replied,
            "point_reads": self.readers.reads,
            "shadow_power_losses": self.shadows.count,
            "acked_tracks_compared": oracle.durability.acked_compared,
            "copies_put_back": self.restoring.count,
            "growths": self.hosts.growths,
            "merges": self.remote.merges,
            "references": self.references.count,
            "lacks_of_room_said": self.alarms.said,
            "verifies_clean": self.verifies.clean,
            "tracks_mended": self.tampering.tracks_mended,
            "takeovers": self.takeovers.count,
            "takeovers_older": self.takeovers.older,
            "takeover_deaths": self.takeovers.deaths,
            "takeover_writes": self.takeovers.writes,
        }

    def run(self) -> Faults:
        world = self.world
        self.remote.start()
        self.primary.start()
        faults = Faults(self, self.operators)
        world.after(0.05, self._tick)
        world.after(0.1, self._look)
        self.verifies.begin()
        world.after(SAFETY_SECONDS * (0.3 + world.rng.random()), self._heal, faults)
        world.run(lambda: self.is_over)
        return faults

    # -- the sites ---------------------------------------------------------------------

    def _primary_opened(self, group: ConsistencyGroup, replicator: Replicator) -> None:
        if self.restoring.is_of_another_time:
            self.world.problem("I7: a device of another length than its state's serves")
        self.oracle.primary_opened(group, replicator)
        self.references.watch(replicator)
        self.hosts.attach(group, self._workers)

    def _remote_opened(self, store: GroupStore) -> None:
        self.oracle.remote_opened(store)
        self.alarms.remote_opened(store)

    def going_down(self, site: Site, *, power: bool) -> None:
        if site is self.primary:
            self.oracle.lost_power = self.oracle.lost_power or power
            self.note_lost_pages()

    def note_lost_pages(self) -> None:
        """A failed fdatasync is as a power loss to what was not flushed."""
        files = self.primary.machine.files
        if any(i.has_lost for i in files.directories["/devices"].names.values()):
            self.oracle.lost_power = True

    def _tick(self) -> None:
        """What a supervisor and an operator look after."""
        for site in self.sites:
            self.look_after(site)
        self.alarms.look()
        if self.tampering.is_on:
            self.is_over = self.tampering.go_on()
        else:
            self.verifies.look()
            if self.takeovers.is_on:
                self.takeovers.go_on()
            elif self.is_healing:
                self._heal_on()
        if not self.is_over:
            self.world.after(0.25, self._tick)

    def has_failed(self, site: Site) -> bool:
        if not site.is_serving:
            return False
        if site is self.primary:
            return self.primary.group is not None and (
                self.primary.group.failed is not None
            )
        store, sent = self.remote.store, self.remote.taken_over
        return (store is not None and store.failed is not None) or (
            sent is not None and sent.failed is not None
        )

    def may_not_start(self, site: Site) -> bool:
        return site is self.primary and self.restoring.is_of_another_time

    def _look(self) -> None:
        if self.tampering.is_on:
            return
        self.oracle.look_at_remote()
        self.oracle.look_at_cut()
        if not self.is_over:
            self.world.after(0.05 + 0.4 * self.world.rng.random(), self._look)

    # -- the heal phase ----------------------------------------------------------------

    def _heal(self, faults: Faults) -> None:
        if self.takeovers.is_due and self.takeovers.begin(faults):
            return
        world = self.world
        world.note("heal")
        faults.is_active = False
        self.is_healing = True
        self._healed_at = world.now
        self.restoring.put_newest_back()
        self.end_trouble()
        self.hosts.budget = max(self.hosts.budget, 20)
        self._ticket = None
        world.after(SETTLE_SECONDS, self._quiesce_hosts)

    def _quiesce_hosts(self) -> None:
        self.hosts.is_active = False

    def _heal_on(self) -> None:
        seconds = self.world.now - self._healed_at
        if seconds > HEAL_SECONDS_MAX:
            waiting = "\n".join(loop.waiting() for loop in self.world.loops)
            waiting += f"\nhosts wait for {self.hosts.in_flight} replies"
            self.world.problem(
                f"I11: not well {seconds:.0f} s after the last fault\n{waiting}"
            )
            return
        group, replicator = self.primary.group, self.primary.replicator
        if (
            not self.primary.is_serving
            or group is None
            or replicator is None
            or self.hosts.is_active
            or not self.hosts.is_idle
            or self.operators.growths.are_under_way  # behind the last cut it would lack
        ):
            return
        if group.state.suspended:
            self.operators.resume()
            return
        ticket = self._ticket
        if ticket is None or self._ticket_life != self.primary.lives:
            self._ticket = None
            self.operators.ask(self._last_cut)
        elif ticket.safe.done():
            self._ticket = None
            if ticket.safe.exception() is None:
                self._judge(group, ticket.safe.result())

    async def _last_cut(self, replicator: Replicator) -> None:
        self._ticket = await replicator.request_cut(None)
        self._ticket_life = self.primary.lives

    def _judge(self, group: ConsistencyGroup, number: int) -> None:
        """That cut is safe: the remote has all that the primary has."""
        world, store = self.world, self.remote.store
        if store is None or not self.remote.is_alive:
            world.problem("I11: a cut is safe at a remote that is not there")
            return
        if not store.points or store.points[-1].number < number:
            world.problem(f"I2: point {number} is said to be safe and is not there")
            return
        cut = self.oracle.cuts[number]
        for volume in group.volumes:
            if self.oracle.content(volume) != cut[volume.name]:
                world.problem(f"I4: {volume.name} is not as in {number}, the last cut")
        self.oracle.compare_points(store)
        self.alarms.all_is_well()
        world.note("well")
        if self.tampering.is_due:
            self.tampering.begin()
        else:
            self.is_over = True
