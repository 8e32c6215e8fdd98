"""Hosts of the primary site: writers and readers that keep to what NBD allows.

Each host works on one volume, with several requests in flight that may overlap those
of other hosts; it judges every reply by the model. A daemon that dies takes its
requests along; the hosts go on with the next one, once they looked at what is there.
"""

from __future__ import annotations

import errno
import itertools
from typing import Any

from common.ports import BASE_ALLOCATION, HostCommand, HostRequest
from common.storage.extents import HOLE_AND_ZERO, Extents
from primary_site.group import ConsistencyGroup
from tests.support.simulation.loop import World
from tests.support.simulation.model import (
    SECTOR,
    WORDY,
    ZEROES,
    HostWrite,
    VolumeModel,
    is_wordy,
    summary,
)
from tests.support.simulation.sites import STATE, Site

WAIT_SECONDS_MAX = 4.0
"""With a disk that is not slow: a hold, a region that heats behind one that cools,
each of their fdatasyncs at the slowest."""

_WRITE_LENGTHS = (1, 1, 2, 3, 8, 8, 8, 16, 24, 40)


class Hosts:
    """All hosts. `is_active` while they begin new requests."""

    def __init__(
        self, world: World, site: Site, sizes: dict[str, int], budget: int
    ) -> None:
        self.world = world
        self.models = {name: VolumeModel(name, size) for name, size in sizes.items()}
        self.is_active = True
        self.budget = budget
        """Requests to be made at most: bounds the run."""
        self.think_seconds = 0.02
        self.may_be_refused = False
        """The other site has taken over: once this one knows, nobody may write."""
        self.excuses: tuple[str, ...] = ("/devices", STATE)
        """Where a disk may fail so that hosts notice."""
        self.writes_replied = 0
        self.errors_met = 0
        self.growths = 0
        self._site = site
        self._group: ConsistencyGroup | None = None
        self._life = 0
        self._stamps = itertools.count(WORDY if is_wordy(world.seed) else 1)
        self.in_flight = 0
        self._focus = {name: world.rng.randrange(m.sectors) for name, m in self._all()}

    def _all(self) -> list[tuple[str, VolumeModel]]:
        return list(self.models.items())

    @property
    def is_attached(self) -> bool:
        return self._group is not None

    @property
    def is_idle(self) -> bool:
        return not self.in_flight

    def attach(self, group: ConsistencyGroup, workers: int) -> None:
        """The daemon serves: look at what is there (done by the caller), go on."""
        self._group = group
        self._life += 1
        self.in_flight = 0
        for index in range(workers):
            name = list(self.models)[index % len(self.models)]
            self.world.after(self._think(), self._next, self._life, name)

    def grown(self, name: str, size_bytes: int) -> None:
        """A volume is larger: an operator was told so, or a start has found it."""
        model = self.models[name]
        if size_bytes > model.size_bytes:
            model.grow(size_bytes)
            self.growths += 1

    def detach(self) -> None:
        """The daemon is gone, and with it all that was in flight."""
        self._group = None
        self._life += 1
        self.in_flight = 0
        may_be_torn = self._site.machine.has_failed_at("/devices")
        for model in self.models.values():
            model.connections_lost(may_be_torn=may_be_torn)

    def _think(self) -> float:
        return self.think_seconds * 2 * self.world.rng.random()

    def _next(self, life: int, name: str) -> None:
        if life != self._life or self._group is None:
            return
        if not self.is_active or self.budget <= 0:
            self.world.after(0.5, self._next, life, name)
            return
        self.budget -= 1
        rng = self.world.rng
        chosen = rng.random()
        if chosen < 0.08:
            self._flush(life, name)
        elif chosen < 0.16:
            self._read(life, name, HostCommand.READ)
        elif chosen < 0.19:
            self._read(life, name, HostCommand.BLOCK_STATUS)
        else:
            self._write(life, name)

    def _submit(self, life: int, name: str, request: HostRequest, then: Any) -> None:
        assert self._group is not None
        self.in_flight += 1
        submitted = self.world.now
        volume = next(v for v in self._group.volumes if v.name == name)

        def complete(done: list[HostRequest]) -> None:
            if life != self._life:
                return
            for each in done:
                assert each is request
                self.in_flight -= 1
                self._judge_wait(name, submitted)
                then(each)
                self.world.after(self._think(), self._next, life, name)

        self._site.loop.call_soon(volume.submit, [request], complete)

    def _judge_wait(self, name: str, submitted: float) -> None:
        """Hosts wait for their own site's disk and for a hold; for nothing else."""
        disturbed_until = self._site.machine.disturbed_until
        since = max(submitted, disturbed_until, self._site.thawed_at)
        waited = self.world.now - since
        if waited > WAIT_SECONDS_MAX:
            self.world.problem(f"{name}: a host waited for {waited:.1f} s")

    def _range(self, model: VolumeModel) -> tuple[int, int]:
        rng = self.world.rng
        if rng.random() < 0.5:  # hot: hosts meet each other there
            first = (self._focus[model.name] + rng.randrange(16)) % model.sectors
        else:
            first = rng.randrange(model.sectors)
        return first, min(rng.choice(_WRITE_LENGTHS), model.sectors - first)

    def _write(self, life: int, name: str) -> None:
        model, rng = self.models[name], self.world.rng
        first, count = self._range(model)
        command = rng.choices(
            (HostCommand.WRITE, HostCommand.TRIM, HostCommand.WRITE_ZEROES), (8, 1, 1)
        )[0]
        stamp = next(self._stamps) if command == HostCommand.WRITE else 0
        write = model.submitted(stamp, first, count)
        request = HostRequest(
            command,
            first * SECTOR,
            count * SECTOR,
            write.data() if stamp else None,
            fua=rng.random() < 0.15,
        )
        self._submit(life, name, request, lambda r: self._wrote(model, write, r))

    def _wrote(self, model: VolumeModel, write: HostWrite, done: HostRequest) -> None:
        model.replied(
            write, is_sure=not done.error, is_durable=done.fua and not done.error
        )
        self.writes_replied += not done.error
        self.errors_met += bool(done.error)
        self.world.note(f"{model.name} {write.first}+{write.count} {done.error}")
        if done.error == errno.EPERM and self.may_be_refused:
            return
        if done.error and not self._is_excused():
            self.world.problem(f"{model.name}: a host's write failed: {done.error}")

    def _is_excused(self) -> bool:
        """Hosts see what befalls their devices, and the log of regions; no more."""
        return self._site.machine.has_failed_at(*self.excuses)

    def _flush(self, life: int, name: str) -> None:
        model = self.models[name]
        flush = model.flush_submitted()

        def then(done: HostRequest) -> None:
            if not done.error:
                model.flushed(flush)
            elif not self._is_excused():
                self.world.problem(f"{name}: a host's flush failed: {done.error}")

        self._submit(life, name, HostRequest(HostCommand.FLUSH, 0, 0), then)

    def _read(self, life: int, name: str, command: int) -> None:
        """Read, or ask for holes: those have to be allowed to read as zeroes."""
        model = self.models[name]
        first, count = self._range(model)
        allowed = [list(model.visible[s]) for s in range(first, first + count)]
        since, zeroings = next(self._stamps), model.zeroings

        def is_right(sector: int, found: bytes, before: list[HostWrite]) -> bool:
            candidates = before + model.visible[sector]
            if any(w.has_failed or w.content(sector) == found for w in candidates):
                return True
            # Of a write that came, and was followed by another, meanwhile?
            if found == ZEROES:
                return model.zeroings > zeroings
            stamp = int.from_bytes(found[:8], "big")
            return stamp > since and HostWrite(stamp, 0, 0, 0).content(sector) == found

        def then(done: HostRequest) -> None:
            if done.error:
                if not self._is_excused():
                    self.world.problem(f"{name}: a read failed: {done.error}")
                return
            holes = set(range(count))
            data = bytes(count * SECTOR)
            if command == HostCommand.READ:
                data = bytes(done.data)
            else:
                holes = _holes(done.data[0], count)
            wrong = [
                first + i
                for i, before in enumerate(allowed)
                if i in holes
                and not is_right(first + i, data[i * SECTOR : (i + 1) * SECTOR], before)
            ]
            if wrong:
                self.world.problem(f"I3: {name}: read {summary(wrong)} wrongly")

        request = HostRequest(
            command,
            first * SECTOR,
            count * SECTOR,
            contexts=(BASE_ALLOCATION,) if command == HostCommand.BLOCK_STATUS else (),
        )
        self._submit(life, name, request, then)


def _holes(extents: Extents, count: int) -> set[int]:
    """Return the sectors, of `count`, that are told to be holes in all their bytes."""
    holes: set[int] = set()
    start = 0
    for size, flags in extents:
        if flags == HOLE_AND_ZERO:
            end = min((start + size) // SECTOR, count)
            holes.update(range(-(-start // SECTOR), end))
        start += size
    return holes
