"""Two sites and what looks after them: killed, started again, mended.

What a supervisor does, and what ends trouble; scenarios add hosts and operators.
"""

from __future__ import annotations

from tests.support.simulation.links import Network
from tests.support.simulation.loop import SimulatedLoop, World
from tests.support.simulation.sites import Site


class TwoSites:
    """`primary` sends at first, `remote` receives."""

    def __init__(
        self, world: World, network: Network, primary: Site, remote: Site
    ) -> None:
        self.world = world
        self.network = network
        self.sites = primary, remote
        self.is_healing = False
        self.is_over = False
        self._failed_since: dict[Site, float] = {}
        network.is_up = self._is_up

    def _is_up(self, loop: SimulatedLoop) -> bool:
        return any(s.machine.is_up for s in self.sites if s.name == loop.site)

    def going_down(self, site: Site, *, power: bool) -> None:
        """A daemon is about to end, or to start: what it holds may be lost."""

    def has_failed(self, site: Site) -> bool:
        """Tell whether a daemon that serves has to be restarted."""
        raise NotImplementedError

    def may_not_start(self, site: Site) -> bool:
        """Tell whether an operator has put something there that must be refused."""
        del site
        return False

    def kill(self, site: Site, *, power: bool) -> None:
        self.going_down(site, power=power)
        site.die(power=power)
        self.start_later(site)

    def stop(self, site: Site) -> None:
        self.going_down(site, power=False)
        site.stop()

    def start_later(self, site: Site) -> None:
        rng = self.world.rng
        self.world.after(rng.choice((0.01, 0.5, 4.0)) * rng.random(), self._start, site)

    def _start(self, site: Site) -> None:
        if site.is_alive:
            return
        self.going_down(site, power=False)
        site.start()
        faults = self.world.rng.random()
        if not self.is_healing and faults < 0.15:  # in the middle of recovery
            power = self.world.rng.random() < 0.5
            site.machine.fuse = self.world.rng.randrange(1, 30)
            site.machine.blow = lambda: self.kill(site, power=power)

    def look_after(self, site: Site) -> None:
        error = site.start_error
        is_mismatch = (error or "").startswith(("Corrupt", "StateMismatch"))
        if is_mismatch and not self.may_not_start(site):
            self.world.problem(f"{site.name} does not start: {error}")
        if not site.is_alive:
            if site not in self._failed_since:
                self._failed_since[site] = self.world.now
            elif self.world.now - self._failed_since[site] > 4.5:
                self._start(site)
                del self._failed_since[site]
            return
        if not self.has_failed(site):
            self._failed_since.pop(site, None)
            return
        since = self._failed_since.setdefault(site, self.world.now)
        if self.world.now - since > 2.0:
            del self._failed_since[site]
            self.kill(site, power=False)

    def end_trouble(self) -> None:
        """Disks, links and processes are well from now on."""
        self.network.rate, self.network.delay_seconds = 50e6, 0.001
        for stream in self.network.streams:
            stream.rate, stream.delay = 50e6, 0.001
        self.network.heal()
        for site in self.sites:
            machine = site.machine
            machine.full.clear()
            machine.errors.clear()
            machine.slow_until = machine.hung_until = 0.0
            machine.fuse = 0
            if site.is_alive:
                for loop in site.loops:
                    loop.fuse = 0
                    loop.is_frozen = False
