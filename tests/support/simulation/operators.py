"""What operators do in a run, between all that goes wrong.

A takeover is the end of a run and has a module of its own, `takeovers`: what hosts were
promised is another model from then on, the point's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tests.support.simulation.scenario import Simulation


SECTORS_MAX = 400
"""A volume grows no further: a run has to stay short."""


class OperatorKinds(Protocol):
    """What the operators of a scenario do, by chance."""

    def kinds(self) -> list[Callable[[], None]]: ...

    def later_kinds(self) -> list[Callable[[], None]]: ...


class Operators:
    """Asks for cuts, suspends, and puts older copies of machines back."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._rng = simulation.world.rng

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

    def _ask_for_cut(self) -> None:
        self._simulation.ask_for_cut(f"label {self._rng.randrange(100)}")

    def _suspend(self) -> None:
        self._simulation.suspend(seconds=3.0 * self._rng.random())

    def _grow(self) -> None:
        """Make a volume larger: within its last track, by some, or past its regions.

        Not with an older state directory: the device would have grown, and the newest
        state, put back, would not know it.
        """
        if self._simulation.oracle.is_older_state:
            return
        models = self._simulation.hosts.models
        name = self._rng.choice(list(models))
        sectors = self._rng.choice((1, 2, 7, 8, 40))
        if models[name].sectors + sectors <= SECTORS_MAX:
            self._simulation.grow(name, sectors)

    def _restore_remote(self) -> None:
        """Copy the remote's machine, or put the copy back: devices and state."""
        self._simulation.restoring.remote()

    def _restore_state(self) -> None:
        """Copy the primary's state directory, or put the copy back."""
        self._simulation.restoring.state(seconds=6.0 * self._rng.random())

    def _restore_primary(self) -> None:
        """Copy the primary's machine, or put the copy back: devices and state."""
        self._simulation.restoring.primary(seconds=6.0 * self._rng.random())
