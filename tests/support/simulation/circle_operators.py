"""Operators while roles change: takeover, failback, switchover, forks deleted.

They ask as `farshore` does, look at what the sites say, and ask again where a daemon
has died meanwhile. Once trouble has ended each of their wishes has to come true.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from common.errors import FarshoreError
from tests.support.simulation.circle_deaths import CircleDeaths
from tests.support.simulation.circle_growths import CircleGrowths
from tests.support.simulation.circle_sites import CircleSite
from tests.support.simulation.sites import GROUP

if TYPE_CHECKING:
    from tests.support.simulation.circle import CircleSimulation

ASK_SECONDS = 1.0
"""Between two tries of what was refused."""

RECLAIM_ODDS = 0.2
"""Of a disaster after which the old site's data are what is wanted."""

SPLIT_SECONDS = 12.0
"""A split brain has to last so long: a refused site asks again every 10 s."""


class CircleOperators:
    """One wish after the other, each until it has come true."""

    def __init__(self, simulation: CircleSimulation) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._rng = random.Random(f"circle of {self._world.seed}")
        self._wishes: list[Callable[[], bool]] = []
        self._wish = ""
        self._asked: tuple[CircleSite, int] | None = None
        self._next_at = 0.0
        self.deaths = CircleDeaths(simulation, self._rng)
        self.growths = CircleGrowths(simulation)
        self._number: int | None = None
        self._split_site: CircleSite | None = None
        self._split_at = 0.0
        self._began: CircleSite | None = None
        """Who sent as the wish was first looked at."""
        self.counts = dict.fromkeys(("takeover", "failback", "switchover"), 0)
        self.deletions = 0
        self.exchanges = 0
        self.refusals = 0

    # -- what faults ask of operators, by chance ---------------------------------------

    def kinds(self) -> list[Callable[[], None]]:
        return [self._ask_for_cut, self._ask_for_cut]

    def later_kinds(self) -> list[Callable[[], None]]:
        return [self.growths.grow]

    def _ask_for_cut(self) -> None:
        for site in self._simulation.circle_sites:
            if site.role == "sending" and site.sent is not None:
                self._call(site, site.sent.request_cut(f"{self._rng.randrange(99)}"))

    # -- the plan ----------------------------------------------------------------------

    def plan(self) -> None:
        """Choose what is wished for: at least one exchange of roles, up to four."""
        self.exchanges = self._rng.randrange(1, 4)
        for _ in range(self.exchanges):
            self._wishes.append(self._wait_for_life)
            if self._rng.random() < 0.6:
                again = [self._reclaim] if self._rng.random() < RECLAIM_ODDS else []
                self._wishes += [self._take_over, *again, self._fail_back]
            else:
                self._wishes.append(self._switch_over)
            if self._rng.random() < 0.4:
                self._wishes.append(self._delete_fork)
        self.growths.plan(self._wishes)

    @property
    def is_done(self) -> bool:
        return not self._wishes

    @property
    def said(self) -> str:
        return self._wishes[0].__name__ if self._wishes else "nothing"

    def go_on(self) -> None:
        """Take a step: look, ask, or let somebody die."""
        if self._simulation.copies.is_under_way:
            return
        self.deaths.perhaps()
        self._watch_split()
        if not self.growths.follow():
            self._mend()
        if self._wishes and self._wishes[0]():
            self._world.note(f"done: {self.said}")
            del self._wishes[0]
            self._asked, self._number, self._began = None, None, None
            self._simulation.oracle.let_hosts_go_on()
            self._perhaps_copy()

    def _perhaps_copy(self) -> None:
        copies, rng = self._simulation.copies, self._rng
        if copies.has_one and not self._simulation.is_healing and rng.random() < 0.7:
            copies.put_back()
        elif rng.random() < 0.7:
            copies.take(rng.choice(self._simulation.circle_sites))

    # -- wishes: each returns True once it has come true -------------------------------

    def _wait_for_life(self) -> bool:
        """Hosts write for a while, and there is a point to go on from."""
        if not self._next_at:
            self._next_at = self._world.now + 3.0 * self._rng.random()
        if self._world.now < self._next_at:
            return False
        receiver = self._with("receiving")
        if self._with("sending") is None or receiver is None:
            return False
        group = receiver.received
        assert group is not None
        if not group.store.points or group.store.is_divided:
            self._world.after(0.0, self._ask_for_cut)
            return False
        self._next_at = 0.0
        return True

    def _take_over(self) -> bool:
        """Who receives is to send, whatever becomes of the other."""
        if self._began is None:
            receiver = self._with("receiving")
            if receiver is None:
                return False
            self._began = receiver
            self.counts["takeover"] += 1
            other = self._simulation.other(receiver)
            if self._rng.random() < 0.5 and other.is_alive:
                self._simulation.kill(other, power=self._rng.random() < 0.5)
            self._number = self._chosen(receiver)
        taker = self._began
        if taker.role == "sending":
            return True
        if taker.role in ("receiving", "taking over"):
            number = self._number if self._is_there(taker) else None
            self._ask(taker, "takeover", action="start", point=number, force=True)
        return False

    def _is_there(self, taker: CircleSite) -> bool:
        """Tell whether a takeover can begin at the point that was chosen, still."""
        group = taker.received
        if group is None or group.store.takeover is not None:
            return False
        points = group.store.disk.state_points
        return self._number in {point.number for point in points}

    def _chosen(self, site: CircleSite) -> int | None:
        group = site.received
        assert group is not None
        points = group.store.disk.state_points
        if self._rng.random() < 0.5 or not points:
            return None
        return self._rng.choice([point.number for point in points])

    def _reclaim(self) -> bool:
        """Who was taken over from learns of it, and is told to go on all the same."""
        if self._began is None:
            self._began = self._with("superseded")
            return self._is_pointless()
        old = self._began
        if old.role == "superseded":
            self._ask(old, "takeover", action="start", point=None, force=True)
        return old.role == "sending" or (old.role == "receiving" and self._has_copy)

    def _fail_back(self) -> bool:
        """Who was taken over from learns of it, and receives."""
        if self._began is None:
            self._began = self._with("superseded") or self._split()
            self.counts["failback"] += self._began is not None
            return self._is_pointless()
        old = self._began
        if old.role == "superseded" or old is self._split():
            self._ask(old, "failback")
        # From whom it receives, after a copy came back, is for `_mend` to see to.
        is_sent = self._simulation.other(old).role == "sending" or self._has_copy
        return old.role == "receiving" and is_sent

    def _switch_over(self) -> bool:
        """Who sends is to receive, and the other way round."""
        if self._began is None:
            sender = self._with("sending")
            if sender is None:
                return False
            self._began = sender
            self.counts["switchover"] += 1
        old = self._began
        if old.role == "receiving":
            return self._simulation.other(old).role == "sending"
        if old.role == "sending":
            self._ask(old, "switchover")
        return False

    def _delete_fork(self) -> bool:
        """One of the forks that any site keeps goes, if there is one."""
        if self._began is None:
            kept = self._simulation.oracle.forks
            having = [s for s in self._simulation.circle_sites if kept.get(s.name)]
            if not having:
                return True
            self._began = self._rng.choice(having)
            self._number = self._rng.choice(list(kept[self._began.name]))
        site, group = self._began, self._began.received
        if group is None or not site.is_serving or group.store.is_divided:
            # Nothing was received since: a cut of the other site comes first.
            self._ask_for_cut()
            return self._simulation.is_healing and site.role != "down"
        if self._number not in {fork.number for fork in group.store.forks}:
            self.deletions += 1
            return True
        kept = self._simulation.oracle.forks[site.name]
        kept.pop(self._number, None)
        self._ask(site, "forks", action="delete", number=self._number)
        return False

    # -- what sites are told -----------------------------------------------------------

    def _mend(self) -> None:
        """See to what an older copy has brought about.

        Whoever refuses for good takes over; who is superseded then, or hears of a split
        brain, fails back. Who is superseded by a line that nobody sends reclaims.
        """
        larger = self.growths.make_larger
        wish = next((each for each in self._wishes if each != larger), None)
        if self._began is not None and wish in (
            self._fail_back,
            self._reclaim,
            self._take_over,
        ):
            return
        superseded = self._with("superseded")
        if superseded is not None:
            # By a line that its site no longer has, perhaps: nobody sends to it then.
            if self._has_copy and not self._is_followed(superseded):
                if wish != self._reclaim:
                    self._insert(self._reclaim)
            elif wish not in (self._fail_back, self._reclaim):
                self._insert(self._fail_back)
        elif not self._has_copy:
            return
        elif self._split() is not None:
            if wish != self._fail_back:
                self._insert(self._fail_back)
        elif self._is_refused() or self._is_unsent():
            self.refusals += 1
            self._insert(self._take_over)

    def _is_refused(self) -> bool:
        """Tell whether the one refuses for good what the other sends."""
        sender, receiver = self._with("sending"), self._with("receiving")
        if sender is None or receiver is None or sender.sent is None:
            return False
        alarms = {alarm.name for alarm in sender.sent.alarms.all()}
        received = receiver.received
        return "refused" in alarms and received is not None and received.is_refusing

    def _is_unsent(self) -> bool:
        """Tell whether both sites receive."""
        sites = self._simulation.circle_sites
        return all(site.role == "receiving" for site in sites)

    def _watch_split(self) -> None:
        """Note who knows of another line beside its own.

        For a moment one does after each takeover, until the other has heard of it.
        """
        found, sites = None, self._simulation.circle_sites
        if all(site.role == "sending" for site in sites):
            for site in sites:
                if site.sent is not None and site.sent.switchover.split_from:
                    found = site
        if found is not self._split_site:
            self._split_site, self._split_at = found, self._world.now

    def _split(self) -> CircleSite | None:
        """Return a site that has long known of another line, beside an older copy."""
        lasted = self._world.now - self._split_at
        return self._split_site if self._has_copy and lasted >= SPLIT_SECONDS else None

    def _is_pointless(self) -> bool:
        """Tell whether a copy that came back has undone what was wished to be mended.

        What it has not, `_mend` finds.
        """
        roles = sorted(site.role for site in self._simulation.circle_sites)
        return self._has_copy and roles == ["receiving", "sending"]

    @property
    def _has_copy(self) -> bool:
        """Tell whether one came back: roles are not what operators remember."""
        return self._simulation.copies.count > 0

    def _is_followed(self, superseded: CircleSite) -> bool:
        """Tell whether the other site sends the line that one was superseded by."""
        other = self._simulation.other(superseded)
        if other.role in ("receiving", "superseded"):
            return False
        told = superseded.sent and superseded.sent.group.state.superseded
        sent = other.sent_group
        return not (told and sent) or told.fork.lineage == sent.state.lineage

    def put_off(self, wish: Callable[[], bool]) -> bool:
        """Have a wish come last if only what is wished for next can help it."""
        if len(self._wishes) > 1 and self._with("superseded") is not None:
            self._wishes.append(wish)
            return True
        return False

    def _insert(self, *wishes: Callable[[], bool]) -> None:
        self._wishes[:0] = wishes
        self._began, self._asked = None, None

    def _with(self, role: str) -> CircleSite | None:
        found = [s for s in self._simulation.circle_sites if s.role == role]
        return found[0] if found else None

    def _ask(self, site: CircleSite, command: str, **arguments: Any) -> None:
        """Ask, unless the same life of the daemon was asked and has not answered."""
        if self._asked == (site, site.lives) or self._world.now < self._next_at:
            return
        groups = site.groups
        assert groups is not None
        self._asked = asked = site, site.lives

        async def ask() -> None:
            try:
                await groups.ask(command, {"group": GROUP, **arguments})
            except FarshoreError as error:
                self._world.note(f"{command}: {error}")
                self._next_at = self._world.now + ASK_SECONDS
            if self._asked == asked:
                self._asked = None

        self._world.note(f"{command} at {site.name}")
        self._world.call(site.loop, ask())

    def _call(self, site: CircleSite, work: Coroutine[Any, Any, Any]) -> None:
        async def call() -> None:
            try:
                await work
            except FarshoreError as error:
                self._world.note(f"refused: {error}")

        self._world.call(site.host_loop, call())
