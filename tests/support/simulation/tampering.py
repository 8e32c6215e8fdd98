"""After all is well: bytes of the remote's devices altered behind its back.

In the seeds that have verifies. A verify has to name exactly the tracks that were
altered, however the sites came to be what they are; its repair makes both equal, which
the oracle sees in the point that is committed then and on the disk below it.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

from primary_site.replicator import Replicator
from primary_site.tickets import CutTicket
from tests.support.simulation.verifies import SHARE

if TYPE_CHECKING:
    from tests.support.simulation.scenario import Simulation

TRACKS_MAX = 3
"""Altered of each volume."""

RATES = (1 << 20, 1 << 40)
SECONDS_MAX = 60.0

Range = tuple[str, int, int]


class Tampering:
    """Runs from `begin` on, a step a tick, until it is over or something is wrong."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._rng = random.Random(f"tampering of {self._world.seed}")
        self._altered: list[Range] = []
        self._began_at = 0.0
        self._verify_asked = False
        self._cut_asked = False
        self._ticket: CutTicket | None = None
        self.is_on = False
        self.tracks_mended = 0

    @property
    def is_due(self) -> bool:
        return self._world.seed % SHARE == 1 and not self.tracks_mended

    def begin(self) -> None:
        """From now on nobody else reads or verifies."""
        self.is_on = True
        self._began_at = self._world.now
        self._simulation.shadows.is_active = False
        self._simulation.readers.detach()
        self._simulation.oracle.is_tampered = True

    def go_on(self) -> bool:
        """Take a step; True once both sites are equal again."""
        if self._world.now - self._began_at > SECONDS_MAX:
            self._world.problem(f"I1: {self._altered} is not mended")
            return True
        replicator = self._simulation.primary.replicator
        assert replicator is not None
        if not self._altered:
            if replicator.verifying.is_running:  # of before: it may see it, or not
                self._simulation.operators.ask(lambda r: r.verifying.stop())
            else:
                self._alter()
        elif not self._verify_asked:
            self._simulation.operators.ask(self._verify)
        elif self._is_named(replicator):
            return self._is_mended()
        return False

    def _alter(self) -> None:
        store: Any = self._simulation.remote.store
        looking = self._simulation.remote.machine.looking
        for volume in store._disk.volumes:
            geometry = volume.geometry
            count = self._rng.randint(1, min(TRACKS_MAX, geometry.track_count))
            for track in sorted(self._rng.sample(range(geometry.track_count), count)):
                offset, length = geometry.byte_range(track, 1)
                at = offset + self._rng.randrange(length)
                looking(partial(_flip, volume, at))
                self._altered.append((volume.offer.name, offset, length))

    async def _verify(self, replicator: Replicator) -> None:
        rate = self._rng.choice(RATES)
        replicator.verifying.start(repair=True, rate_bytes=rate)
        self._verify_asked = True  # not where it was refused: no link just then

    def _is_named(self, replicator: Replicator) -> bool:
        report = replicator.verifying.report()
        if report is None or report.result is None or replicator.verifying.is_running:
            return False
        if self._simulation.oracle.is_tampered:
            named = sorted(
                (each.volume, each.offset_bytes, each.length_bytes)
                for each in report.differing
            )
            wanted = _joined(self._altered)
            if named != wanted or report.result != "repairing":
                said = f"{report.result} ({report.reason}) of {named}"
                self._world.problem(f"a verify of {wanted} altered says {said}")
            # What is committed from now on has to be right, and is compared.
            self._simulation.oracle.is_tampered = False
            self._simulation.oracle.judged_points = 1
        return True

    def _is_mended(self) -> bool:
        if not self._cut_asked:
            self._cut_asked = True
            self._simulation.operators.ask(self._cut)
        if self._ticket is None or not self._ticket.safe.done():
            return False
        if self._ticket.safe.exception() is not None:
            self._ticket, self._cut_asked = None, False
            return False
        store: Any = self._simulation.remote.store
        number = self._ticket.safe.result()
        points = [point for point in store.points if point.number == number]
        assert points, "the newest is kept"
        self._simulation.oracle.compare_points(store, points)
        self.tracks_mended = len(self._altered)
        return True

    async def _cut(self, replicator: Replicator) -> None:
        self._ticket = await replicator.request_cut(None)


def _flip(volume: Any, offset: int) -> None:
    old = volume.device.read(offset, 1)
    volume.device.write(offset, bytes([old[0] ^ 0x10]))
    volume.device.datasync()


def _joined(ranges: list[Range]) -> list[Range]:
    """Return ranges sorted, joined where they touch, as a report has them."""
    found: list[Range] = []
    for name, offset, length in sorted(ranges):
        if found and found[-1][0] == name and found[-1][1] + found[-1][2] == offset:
            found[-1] = (name, found[-1][1], found[-1][2] + length)
        else:
            found.append((name, offset, length))
    return found
