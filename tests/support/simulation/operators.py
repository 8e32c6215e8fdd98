"""What operators do in a run, between all that goes wrong.

A takeover is the end of a run and has a module of its own, `takeovers`: what hosts were
promised is another model from then on, the point's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import FarshoreError
from primary_site.replicator import Replicator
from tests.support.simulation.growths import Growths, chosen_growth

if TYPE_CHECKING:
    from tests.support.simulation.scenario import Simulation


class OperatorKinds(Protocol):
    """What the operators of a scenario do, by chance."""

    def kinds(self) -> list[Callable[[], None]]: ...

    def later_kinds(self) -> list[Callable[[], None]]: ...


class Operators:
    """Asks for cuts, suspends, and puts older copies of machines back."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._rng = simulation.world.rng
        self.growths = Growths(simulation.world)

    def kinds(self) -> list[Callable[[], None]]:
        return [
            self._ask_for_cut,
            self._suspend,
            self._restore_remote,
            self._restore_state,
            self._restore_primary,
        ]

    def later_kinds(self) -> list[Callable[[], None]]:
        """What seeds did not do once: chosen apart, so that most do what they did."""
        return [self._grow]

    def ask(self, work: Callable[[Replicator], Awaitable[Any]]) -> None:
        """Ask the primary for something, if it serves."""
        simulation, site = self._simulation, self._simulation.primary
        replicator = site.replicator
        if not (site.is_alive and site.is_serving and replicator is not None):
            return

        async def asked() -> None:
            try:
                await work(replicator)
            except FarshoreError as error:
                simulation.world.note(f"refused: {error}")

        simulation.world.call(site.loop, asked())

    def resume(self) -> None:
        self.ask(lambda replicator: replicator.resume())

    def _ask_for_cut(self) -> None:
        label = f"label {self._rng.randrange(100)}"
        self.ask(lambda replicator: replicator.request_cut(label))

    def _suspend(self) -> None:
        seconds = 3.0 * self._rng.random()
        self.ask(lambda replicator: replicator.suspend())
        self._simulation.world.after(seconds, self.resume)

    def _grow(self) -> None:
        """Make a volume larger.

        Not with an older state directory: the device would have grown, and the newest
        state, put back, would not know it.
        """
        if self._simulation.oracle.is_older_state:
            return
        site, hosts = self._simulation.primary, self._simulation.hosts
        chosen = chosen_growth(hosts, self._rng)
        replicator = site.replicator
        if chosen is None or replicator is None:
            return
        if site.is_alive and site.is_serving:
            self.growths.ask(site.loop, replicator, hosts, *chosen)

    def _restore_remote(self) -> None:
        """Copy the remote's machine, or put the copy back: devices and state."""
        self._simulation.restoring.remote()

    def _restore_state(self) -> None:
        """Copy the primary's state directory, or put the copy back."""
        self._simulation.restoring.state(seconds=6.0 * self._rng.random())

    def _restore_primary(self) -> None:
        """Copy the primary's machine, or put the copy back: devices and state."""
        self._simulation.restoring.primary(seconds=6.0 * self._rng.random())
