"""Volumes that grow as roles go round: wherever the group is sent from by then."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.support.simulation.circle_sites import CircleSite
from tests.support.simulation.growths import Growths, chosen_growth

if TYPE_CHECKING:
    from tests.support.simulation.circle import CircleSimulation

AGAIN_SECONDS = 1.0
"""Between two tries of what was refused, or cut short."""

WISHED_SHARE = 0.4
"""Of the runs in which a volume has to have grown before they end."""

COMMAND = re.compile(r"farshore grow [^ /]+/(\S+) (\d+)")


class CircleGrowths:
    """By chance of its own, so that other seeds do what they did before it."""

    def __init__(self, simulation: CircleSimulation) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._rng = random.Random(f"growths of {self._world.seed}")
        self._growths = Growths(self._world)
        self._wanted: tuple[str, int] | None = None
        self._next_at = 0.0
        self.followed = 0
        """Commands that a refusal named."""

    @property
    def are_under_way(self) -> bool:
        return self._growths.are_under_way

    def plan(self, wishes: list[Callable[[], bool]]) -> None:
        """Have growths among the wishes of some runs."""
        if self._rng.random() < WISHED_SHARE:
            for _ in range(self._rng.randrange(1, 3)):
                wishes.insert(self._rng.randrange(len(wishes) + 1), self.make_larger)

    def grow(self) -> None:
        """By chance: whatever changes at that moment."""
        sender = self._sender()
        chosen = sender and self._chosen(sender)
        if sender is not None and chosen is not None:
            self._ask(sender, *chosen)

    def make_larger(self) -> bool:
        """A wish: once it has come true, the site that sends has a larger volume."""
        sender = self._sender()
        if sender is None:
            return self._simulation.operators.put_off(self.make_larger)
        if self._wanted is None:
            self._wanted = self._chosen(sender)
            if self._wanted is None:
                return True
        if self._has(sender, *self._wanted):
            self._wanted = None
            return True
        self._ask_at_times(sender, *self._wanted)
        return False

    def follow(self) -> bool:
        """Type what a refusal names, if it does: both sites had grown a volume."""
        sender = self._sender()
        if sender is None or sender.sent is None:
            return False
        for alarm in sender.sent.alarms.all():
            command = COMMAND.search(alarm.message)
            if command is not None and alarm.name == "refused":
                name, size_bytes = command[1], int(command[2])
                if not self._has(sender, name, size_bytes):
                    self.followed += self._ask_at_times(sender, name, size_bytes)
                return True
        return False

    def _ask_at_times(self, sender: CircleSite, name: str, size_bytes: int) -> bool:
        if self.are_under_way or self._world.now < self._next_at:
            return False
        self._next_at = self._world.now + AGAIN_SECONDS
        self._ask(sender, name, size_bytes)
        return True

    def _ask(self, sender: CircleSite, name: str, size_bytes: int) -> None:
        assert sender.sent is not None
        self._world.note(f"{name} is to have {size_bytes} at {sender.name}")
        self._simulation.operators.deaths.at_growth(sender, self._rng)
        hosts = self._simulation.oracle.hosts_of(sender.sent.group)
        self._growths.ask(sender.host_loop, sender.sent, hosts, name, size_bytes)

    def _sender(self) -> CircleSite | None:
        sites = self._simulation.circle_sites
        return next((site for site in sites if site.role == "sending"), None)

    def _chosen(self, sender: CircleSite) -> tuple[str, int] | None:
        assert sender.sent is not None
        hosts = self._simulation.oracle.hosts_of(sender.sent.group)
        return chosen_growth(hosts, self._rng)

    def _has(self, sender: CircleSite, name: str, size_bytes: int) -> bool:
        assert sender.sent is not None
        volumes = sender.sent.group.volumes
        return any(v.name == name and v.size_bytes >= size_bytes for v in volumes)
