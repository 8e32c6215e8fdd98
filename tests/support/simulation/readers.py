"""Readers of recovery points: they open one, and read it for as long as they like.

Commits go on meanwhile, tracks are overwritten under the reader's thread, the point is
retained no more: what it reads is the cut, every time, or the daemon is gone (I6).
"""

from __future__ import annotations

from dataclasses import dataclass

from common.ports import BASE_ALLOCATION, HostCommand, HostRequest, HostVolume
from common.storage.extents import DIRTY, DIRTY_BITMAP, HOLE_AND_ZERO, Extents
from tests.support.simulation.loop import World
from tests.support.simulation.model import SECTOR
from tests.support.simulation.sites import RemoteSite

HELD_SECONDS = (0.2, 2.0, 8.0)
READS_MAX = 40
"""A run: each costs as much as ten callbacks."""

READ_SECTORS = (1, 8, 32, 200)


@dataclass(slots=True, eq=False)
class _Reading:
    """One open point of one volume."""

    volume: HostVolume
    name: str
    number: int
    wanted: bytes
    before: bytes | None
    until: float
    life: int


class PointReaders:
    """All readers at the remote; `cuts` is what each of them must find."""

    def __init__(
        self, world: World, site: RemoteSite, cuts: dict[int, dict[str, bytes]]
    ) -> None:
        self.world = world
        self.reads = 0
        self.pause_seconds = world.rng.choice((0.3, 1.0, 4.0))
        self.is_active = True
        self._site = site
        self._cuts = cuts
        self._life = 0
        self._open: list[_Reading] = []
        self._in_flight = 0
        site.on_serving = self.attach
        site.on_gone = self.detach
        site.before_close = self.leave

    # -- the daemon --------------------------------------------------------------------

    def attach(self) -> None:
        self._life += 1
        self._later(self._life)

    def detach(self) -> None:
        """The daemon is gone; so are its connections."""
        self._life += 1
        self._open = []
        self._in_flight = 0

    def leave(self) -> bool:
        """Close every connection, as a daemon that stops does; True once all are."""
        self._life += 1
        if self._in_flight:
            return False
        for reading in self._open:
            reading.volume.release()
        self._open = []
        return True

    def _later(self, life: int) -> None:
        delay = self.pause_seconds * 2 * self.world.rng.random()
        self.world.after(delay, self._connect, life)

    def _connect(self, life: int) -> None:
        if life != self._life:
            return
        if self.is_active and self.reads < READS_MAX:
            self._site.loop.call_soon(self._begin, life)
        self._later(life)

    def _begin(self, life: int) -> None:
        store, rng = self._site.store, self.world.rng
        if life != self._life or store is None or not store.points:
            return
        point = store.points[int(rng.random() * len(store.points))]
        earlier = [p.number for p in store.points if p.number < point.number]
        name = rng.choice([offer.name for offer in store.volumes])
        newest = point is store.points[-1] and rng.random() < 0.5
        volume = store.open_point(name, None if newest else point.number)
        if volume is None or point.number not in self._cuts:
            self.world.problem(f"I6: point {point.number} cannot be opened")
            return
        cut = self._cuts[point.number]
        if volume.size_bytes != len(cut[name]):
            self.world.problem(f"I1: {name}@{point.number}: {volume.size_bytes} bytes")
        before = self._cuts[earlier[-1]][name] if earlier else None
        until = self.world.now + rng.choice(HELD_SECONDS) * rng.random()
        reading = _Reading(volume, name, point.number, cut[name], before, until, life)
        self._open.append(reading)
        self._read(reading)

    # -- reading -----------------------------------------------------------------------

    def _read(self, reading: _Reading) -> None:
        if reading.life != self._life:
            return
        rng, sectors = self.world.rng, len(reading.wanted) // SECTOR
        if self.world.now > reading.until or self.reads >= READS_MAX:
            self._open.remove(reading)
            reading.volume.release()
            return
        first = rng.randrange(sectors)
        count = min(rng.choice(READ_SECTORS), sectors - first)
        command = HostCommand.READ
        contexts: tuple[str, ...] = ()
        if rng.random() < 0.2:
            command, contexts = HostCommand.BLOCK_STATUS, reading.volume.contexts
        request = HostRequest(
            command, first * SECTOR, count * SECTOR, contexts=contexts
        )
        self._in_flight += 1

        def complete(done: list[HostRequest]) -> None:
            if reading not in self._open:
                return
            self._in_flight -= 1
            self.reads += 1
            self._judge(reading, done[0])
            delay = 0.3 * rng.random()
            self.world.after(delay, self._again, reading)

        reading.volume.submit([request], complete)

    def _again(self, reading: _Reading) -> None:
        if reading.life == self._life:
            self._site.loop.call_soon(self._read, reading)

    def _judge(self, reading: _Reading, request: HostRequest) -> None:
        where = f"{reading.name}@{reading.number}"
        if request.error:
            if not self._site.machine.has_failed_at("/devices", "/journal"):
                self.world.problem(f"I6: {where}: a read failed: {request.error}")
            return
        start, end = request.offset, request.offset + request.length
        if request.command == HostCommand.READ:
            if bytes(request.data) != reading.wanted[start:end]:
                self.world.problem(f"I6: {where} changed at {start}")
            return
        for name, extents in zip(request.contexts, request.data, strict=True):
            if name == BASE_ALLOCATION:
                self._judge_holes(reading, start, extents)
            elif name == DIRTY_BITMAP:
                self._judge_changed(reading, start, extents)

    def _judge_holes(self, reading: _Reading, start: int, extents: Extents) -> None:
        for size, flags in extents:
            if flags == HOLE_AND_ZERO and any(reading.wanted[start : start + size]):
                self.world.problem(
                    f"I6: {reading.name}@{reading.number}: a hole at {start} has data"
                )
            start += size

    def _judge_changed(self, reading: _Reading, start: int, extents: Extents) -> None:
        if reading.before is None:
            return
        for size, flags in extents:
            at = slice(start, start + size)
            if flags != DIRTY and reading.wanted[at] != reading.before[at]:
                self.world.problem(
                    f"I6: {reading.name}@{reading.number}: a change at {start} "
                    "is not told"
                )
            start += size
