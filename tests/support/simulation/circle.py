"""Roles that go round: takeover, failback, switchover, and again, whatever goes wrong.

Both daemons whole, each in both roles. Operators wish for one exchange of roles after
the other while sites die, links break and older copies come back; then trouble ends,
every wish has to come true, and the site that sends and the one that receives have to
be equal at a cut, with all forks that were not deleted.
"""

from __future__ import annotations

from typing import Any

from common.errors import FarshoreError
from common.service.config_link import FlashCopyTable
from common.service.config_primary import PrimaryGroup
from common.service.config_remote import JournalTable, RemoteGroup
from primary_site.tickets import CutTicket
from tests.support.simulation.circle_copies import CircleCopies
from tests.support.simulation.circle_operators import CircleOperators
from tests.support.simulation.circle_oracle import CircleOracle
from tests.support.simulation.circle_sites import CircleSite
from tests.support.simulation.faults import Faults
from tests.support.simulation.knobs import chosen_sizes, primary_config
from tests.support.simulation.links import Network
from tests.support.simulation.loop import World
from tests.support.simulation.model import is_wordy
from tests.support.simulation.sites import GROUP, Site
from tests.support.simulation.two_sites import TwoSites

TROUBLE_SECONDS = 16.0
HEAL_SECONDS_MAX = 240.0
"""For all that operators still wish for, and a last cut: each wish may wait for a
silence (8 s), a refusal (10 s), a stalled change of roles (5 s), a restart."""

RETENTIONS: tuple[list[str], ...] = (
    [],
    ["all for 1h"],
    ["all for 2s", "1 per 2s for 1h"],
)


class CircleSimulation(TwoSites):
    """Both sites and all around them, for one seed."""

    def __init__(self, world: World) -> None:
        rng = world.rng
        sizes = chosen_sizes(rng)
        network = Network(world)
        self.oracle = CircleOracle(world)
        primary = _primary(rng, sizes, is_wordy=is_wordy(world.seed))
        self.primary = CircleSite(world, "amsterdam", network, primary, self.oracle)
        self.remote = CircleSite(world, "dr", network, _remote(rng, sizes), self.oracle)
        super().__init__(world, network, self.primary, self.remote)
        self.circle_sites = (self.primary, self.remote)
        for site in self.circle_sites:
            site.machine.sync_seconds = rng.choice((0.0, 0.01, 0.3))
            site.machine.stops = rng.choice((0.0, 0.05, 0.2))
        self.copies = CircleCopies(self)
        self.operators = CircleOperators(self)
        self._faults: Faults | None = None
        self._healed_at = 0.0
        self._ticket: CutTicket | None = None
        self._asked_life = 0
        self._written = -1

    def close(self) -> None:
        """Unwind what is in the middle of an operation on disk."""
        for site in self.circle_sites:
            site.machine.end_jobs()

    def counts(self) -> dict[str, int]:
        """Return what was done and compared, by names of the evidence."""
        oracle, operators = self.oracle, self.operators
        return {
            "cuts": len(oracle.cuts),
            "commits": oracle.commits,
            "images_compared": oracle.points_compared,
            "starts": oracle.starts_checked,
            "host_writes": oracle.host_writes,
            "copies_put_back": self.copies.count,
            "merges": oracle.merges,
            "references": oracle.references.count,
            "circles": 1,
            "second_circles": operators.exchanges > 1,
            "circle_takeovers": oracle.taken_over,
            "circle_deaths": operators.deaths.count,
            "circle_growths": oracle.growths,
            "growths_followed": operators.growths.followed,
            "failbacks": operators.counts["failback"],
            "switchovers": oracle.handed_over,
            "reclaims": oracle.reclaimed,
            "forks_kept": oracle.forks_made,
            "forks_compared": oracle.forks_compared,
            "forks_deleted": operators.deletions,
            "older_senders_refused": operators.refusals,
            **{f"circle_{name}": n for name, n in oracle.verdicts.items()},
        }

    def run(self) -> Faults:
        world = self.world
        self.remote.start()
        self.primary.start()
        self.operators.plan()
        faults = self._faults = Faults(self, self.operators)
        world.after(0.05, self._tick)
        world.after(0.1, self._look)
        world.after(TROUBLE_SECONDS * (0.4 + world.rng.random()), self._heal)
        world.run(lambda: self.is_over)
        return faults

    def other(self, site: Site) -> CircleSite:
        return self.remote if site is self.primary else self.primary

    def is_quiet(self, site: CircleSite) -> bool:
        """Tell whether a site has made durable all that it was sent."""
        if not (site.is_alive and site.is_serving) or site.loop.is_frozen:
            return False
        group = site.received
        return group is None or (
            group.store.failed is None
            and group.session is None
            and not group._admission.locked()
        )

    def has_failed(self, site: Site) -> bool:
        assert isinstance(site, CircleSite)
        if not site.is_serving:
            return False
        sent, received = site.sent_group, site.received
        return (sent is not None and sent.failed is not None) or (
            received is not None and received.store.failed is not None
        )

    def _look(self) -> None:
        for site in self.circle_sites:
            self.oracle.look(site)
        if not self.is_over:
            self.world.after(0.1 + 0.6 * self.world.rng.random(), self._look)

    def _tick(self) -> None:
        for site in self.circle_sites:
            if site is not self.copies.site:
                self.look_after(site)
        self.operators.go_on()
        if self.is_healing:
            self._heal_on()
        if not self.is_over:
            self.world.after(0.25, self._tick)

    # -- the end -----------------------------------------------------------------------

    def _heal(self) -> None:
        if self.copies.is_under_way:
            self.world.after(1.0, self._heal)
            return
        self.world.note("heal")
        assert self._faults is not None
        self._faults.is_active = False
        self.is_healing = True
        self.operators.deaths.no_more()
        self._healed_at = self.world.now
        self.end_trouble()

    def _heal_on(self) -> None:
        if self.world.now - self._healed_at > HEAL_SECONDS_MAX:
            roles = {site.name: site.role for site in self.circle_sites}
            waiting = "\n".join(loop.waiting() for loop in self.world.loops)
            text = f"I11: not well: {self.operators.said} with {roles}\n{waiting}"
            self.world.problem(text)
            return
        if not self.operators.is_done or self.operators.growths.are_under_way:
            return
        roles_now = sorted(site.role for site in self.circle_sites)
        if roles_now != ["receiving", "sending"]:
            return
        sender = next(s for s in self.circle_sites if s.role == "sending")
        if self._has_written(sender):
            self._bring_all(sender)

    def _has_written(self, sender: CircleSite) -> bool:
        """Hosts can write at the site that sends, and then keep still."""
        assert sender.sent is not None
        line = self.oracle.lines[sender.sent.group.state.lineage]
        hosts = line.hosts
        if not self.oracle.are_hosts_active:
            return hosts.is_idle
        if self._written < 0:
            self._written = hosts.writes_replied
            hosts.budget, hosts.is_active = 20, True
        if hosts.writes_replied < self._written + 5 and hosts.budget > 0:
            return False
        self.oracle.are_hosts_active = hosts.is_active = False
        return hosts.is_idle

    def _bring_all(self, sender: CircleSite) -> None:
        ticket = self._ticket
        if ticket is None or self._asked_life != sender.lives:
            self._asked_life = sender.lives
            self._ticket = None
            self.world.call(sender.host_loop, self._cut(sender))
        elif ticket.safe.done():
            self._ticket = None
            if ticket.safe.exception() is None:
                self._judge(sender, ticket.safe.result())

    async def _cut(self, sender: CircleSite) -> None:
        assert sender.sent is not None
        try:
            self._ticket = await sender.sent.request_cut(None)
        except FarshoreError as error:
            self.world.note(f"refused: {error}")

    def _judge(self, sender: CircleSite, number: int) -> None:
        """That cut is safe: the receiver has all that the sender has."""
        world, oracle, receiver = self.world, self.oracle, self.other(sender)
        group, received = sender.sent_group, receiver.received
        assert group is not None
        if received is None or not received.store.points:
            world.problem("I11: a cut is safe at a site that is not there")
            return
        point = received.store.points[-1]
        cut = oracle.images.get(point.cycle_id, {})
        if point.number < number:
            world.problem(f"I2: point {number} is said to be safe and is not there")
        for volume in group.volumes:
            data = oracle.content(sender, volume.name, volume.size_bytes)
            if data != cut.get(volume.name):
                world.problem(f"I4: {volume.name} is not as in {number}, the last cut")
            if oracle.content(receiver, volume.name, volume.size_bytes) != data:
                world.problem(f"I1: {volume.name}: the sites are not equal")
        for site in self.circle_sites:
            store: Any = site.received and site.received.store
            if store:
                oracle.compare_points(site, store)
                oracle.check_forks(site, store)
        self._all_is_well()
        world.note("well")
        self.is_over = True

    def _all_is_well(self) -> None:
        """No alarm is left but those that an operator has to have seen."""
        left: list[str] = []
        for site in self.circle_sites:
            if site.sent is not None:
                left += [alarm.name for alarm in site.sent.alarms.all()]
            elif site.received is not None:
                left += list(site.received.alarms)
        left = [name for name in left if name not in MAY_STAND]
        if left:
            self.world.problem(f"I11: all is well, but for {left}")


MAY_STAND = (
    "remote_restored",
    "points_given_up",
    "rpo_breached",
    "rpo_breach_forecast",
)


def _primary(
    rng: Any, sizes: dict[str, tuple[int, int, int]], *, is_wordy: bool
) -> PrimaryGroup:
    config = primary_config(rng, sizes, is_wordy=is_wordy)
    return config.model_copy(update={"journal": JournalTable(directory="/journal")})


def _remote(rng: Any, sizes: dict[str, tuple[int, int, int]]) -> RemoteGroup:
    config = RemoteGroup.model_validate(
        {
            "name": GROUP,
            "peer": "amsterdam",
            "retain": rng.choice(RETENTIONS),
            "journal": {"directory": "/journal"},
            "link": {
                "remotes": ["amsterdam:7420"],
                "peer": "amsterdam",
                "allow_plaintext_replication": True,
            },
            "volume": [
                {"name": name, "device": f"/devices/{name}.img"} for name in sizes
            ],
        }
    )
    flashcopy = FlashCopyTable(directory="/flashcopy")
    return config.model_copy(update={"flashcopy": flashcopy})
