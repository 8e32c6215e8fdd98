"""What goes wrong in a run: chosen by the seed. What operators do: `operators`.

Each run has a few kinds of trouble and not the others: a run with everything finds
less than many runs with two or three things each.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.support.simulation.machine import Machine
from tests.support.simulation.operators import OperatorKinds
from tests.support.simulation.sites import Site

if TYPE_CHECKING:
    from tests.support.simulation.two_sites import TwoSites

PRIMARY_ERRORS = (
    ("write", "/devices"),
    ("read", "/devices"),
    ("datasync", "/devices"),
    ("write", "/flashcopy"),
    ("read", "/flashcopy"),
    ("truncate", "/flashcopy"),
    ("write", "/state"),
    ("read", "/state"),
    ("datasync", "/state"),
    ("create", "/state"),
    ("rename", "/state"),
    ("sync_directory", "/state"),
)
REMOTE_ERRORS = (
    ("write", "/devices"),
    ("read", "/devices"),
    ("datasync", "/devices"),
    ("write", "/journal"),
    ("datasync", "/journal"),
    ("create", "/journal"),
    ("sync_directory", "/journal"),
    ("remove", "/journal"),
    ("read", "/journal"),
    ("truncate", "/journal"),
    ("write", "/state"),
    ("datasync", "/state"),
    ("sync_directory", "/state"),
    ("rename", "/state"),
)

FAULTS = (
    "reset_links",
    "reset_one_link",
    "flip_bit",
    "cut_network",
    "swallow",
    "change_pace",
    "crash_primary",
    "crash_remote",
    "crash_both",
    "stop_cleanly",
    "freeze",
    "fill_target",
    "fill_remote",
    "fill_state",
    "fail_primary",
    "fail_remote",
    "slow_disk",
    "hang_disk",
    "jump_clock",
)
KINDS = (
    *FAULTS,
    "ask_for_cut",
    "suspend",
    "grow",
    "restore_remote",
    "restore_state",
    "restore_primary",
)
KINDS_SHARE = 0.25

MOMENTS = ("cut ", "commit ", "complete ", "connected ", "cooled ", "acked ")
"""Beginnings of events in the trace after which a crash is worth most."""


class Faults:
    """Makes one fault after the other until `is_active` ends."""

    def __init__(self, simulation: TwoSites, operators: OperatorKinds) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self.is_active = True
        rng = self._world.rng
        kinds = [getattr(self, f"_{name}") for name in FAULTS] + operators.kinds()
        self._kinds = [kind for kind in kinds if rng.random() < KINDS_SHARE]
        apart = random.Random(self._world.seed ^ 0x6207)
        self._kinds += [k for k in operators.later_kinds() if apart.random() < 0.2]
        self._pause = rng.choice((0.3, 0.8, 2.0))
        self.power_share = rng.choice((0.0, 0.5, 1.0))
        self.counts: dict[str, int] = {}
        if self._kinds:
            self._later()

    def leave_copies_alone(self) -> None:
        """No operator puts older copies back from now on."""
        kinds = [k for k in self._kinds if not k.__name__.startswith("_restore")]
        self._kinds = kinds
        self.is_active = self.is_active and bool(kinds)

    def _later(self) -> None:
        self._world.after(self._pause * 2 * self._world.rng.random(), self._next)

    def _next(self) -> None:
        if not self.is_active:
            return
        kind = self._kinds[int(self._world.rng.random() * len(self._kinds))]
        name = kind.__name__.strip("_")
        self.counts[name] = self.counts.get(name, 0) + 1
        self._world.note(name)
        kind()
        self._later()

    def _for_a_while(self, seconds: float, end: Callable[[], None]) -> None:
        self._world.after(seconds * self._world.rng.random(), end)

    # -- the network -------------------------------------------------------------------

    def _reset_links(self) -> None:
        self._simulation.network.reset()

    def _reset_one_link(self) -> None:
        """Of several links one breaks: the session goes on over the others."""
        streams = list(self._simulation.network.streams)
        if streams:
            stream = self._world.rng.choice(streams)
            stream.break_off()
            for end in (stream, stream.other):
                self._world.after(stream.delay, end.lose, "reset by the network")

    def _flip_bit(self) -> None:
        """What arrives next on some link is not what was sent."""
        streams = list(self._simulation.network.streams)
        if streams:
            self._world.rng.choice(streams).will_flip = True

    def _cut_network(self) -> None:
        network = self._simulation.network
        network.is_down = True
        network.swallowed |= {"out", "back"}
        self._for_a_while(self._world.rng.choice((2.0, 25.0)), network.heal)

    def _swallow(self) -> None:
        network = self._simulation.network
        network.swallow(self._world.rng.choice(("out", "back")))
        self._for_a_while(self._world.rng.choice((2.0, 25.0)), network.heal)

    def _change_pace(self) -> None:
        network, rng = self._simulation.network, self._world.rng
        network.rate = rng.choice((30e3, 300e3, 50e6))
        network.delay_seconds = rng.choice((0.0002, 0.01, 0.2))
        for stream in network.streams:
            stream.rate, stream.delay = network.rate, network.delay()

    # -- processes and power -----------------------------------------------------------

    def _crash_primary(self) -> None:
        self._crash(self._simulation.primary)

    def _crash_remote(self) -> None:
        self._crash(self._simulation.remote)

    def _crash_both(self) -> None:
        power = self._world.rng.random() < self.power_share
        for site in (self._simulation.primary, self._simulation.remote):
            if site.is_alive:
                self._simulation.kill(site, power=power)

    def _crash(self, site: Site) -> None:
        """Kill at once, some callbacks from now, within an operation on disk, or just
        after something that matters."""
        rng = self._world.rng
        power = rng.random() < self.power_share
        way = rng.random()

        def blow() -> None:
            if site.is_alive and self.is_active:
                self._simulation.kill(site, power=power)

        if way < 0.15:
            blow()
        elif way < 0.35:
            delay = rng.choice((0.0, 0.002, 0.02)) * rng.random()
            self._world.awaited = rng.choice(MOMENTS), delay, blow
        elif not site.is_alive:
            return
        elif way < 0.65:
            loop = rng.choice(site.loops) if site.group_loops else site.loop
            loop.fuse, loop.blow = rng.randrange(1, 300), blow
        else:
            site.machine.fuse, site.machine.blow = rng.randrange(1, 40), blow

    def _stop_cleanly(self) -> None:
        site = self._either()
        if site.is_serving and site.is_alive:
            self._simulation.stop(site)

    def _freeze(self) -> None:
        self._either().freeze(self._world.rng.choice((0.2, 3.0, 15.0)))

    def _either(self) -> Site:
        simulation = self._simulation
        if self._world.rng.random() < 0.5:
            return simulation.primary
        return simulation.remote

    # -- disks and clocks --------------------------------------------------------------

    def _fill_target(self) -> None:
        self._fill(self._simulation.primary.machine, "/flashcopy")

    def _fill_remote(self) -> None:
        prefix = self._world.rng.choice(("/journal", "/devices"))
        self._fill(self._simulation.remote.machine, prefix)

    def _fill_state(self) -> None:
        self._fill(self._either().machine, "/state")

    def _fill(self, machine: Machine, prefix: str) -> None:
        machine.full.add(prefix)
        self._for_a_while(6.0, lambda: machine.full.discard(prefix))

    def _fail_primary(self) -> None:
        operation, prefix = self._world.rng.choice(PRIMARY_ERRORS)
        machine = self._simulation.primary.machine
        machine.errors.append((operation, prefix, errno.EIO))
        self._may_be_mended(self._simulation.primary)

    def _fail_remote(self) -> None:
        operation, prefix = self._world.rng.choice(REMOTE_ERRORS)
        number = errno.EIO
        if operation in {"write", "create"} and self._world.rng.random() < 0.3:
            number = errno.ENOSPC
        machine = self._simulation.remote.machine
        machine.errors.append((operation, prefix, number))
        self._may_be_mended(self._simulation.remote)

    def _may_be_mended(self, site: Site) -> None:
        """Once the error is met the daemon is restarted, and then power is lost.

        What a failed flush left in memory only is not to be trusted by that start.
        """
        rng = self._world.rng
        if rng.random() < 0.6:
            return

        def lose_power() -> None:
            if site.is_alive and self.is_active:
                self._simulation.kill(site, power=True)

        def mend() -> None:
            if site.is_alive and self.is_active:
                self._simulation.kill(site, power=False)
                self._world.awaited = "connected ", 0.1 * rng.random(), lose_power

        site.machine.on_error = mend

    def _slow_disk(self) -> None:
        self._either().machine.slow_down(4.0 * self._world.rng.random())

    def _hang_disk(self) -> None:
        """No call to a disk returns for a while, whatever becomes of who asked.

        Often the links break meanwhile: a newer session must wait for the threads of
        the one before.
        """
        rng = self._world.rng
        seconds = rng.choice((1.0, 6.0, 15.0)) * rng.random()
        self._either().machine.hang(seconds)
        if rng.random() < 0.5:
            self._for_a_while(seconds, self._reset_links)

    def _jump_clock(self) -> None:
        seconds = self._world.rng.choice((-86400.0, -1.0, 1.0, 86400.0))
        self._either().machine.clock_error_seconds += seconds
