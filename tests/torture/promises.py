"""What hosts were promised about power: flushes and FUA, and who may be missed.

After a power loss each sector holds what a surely durable write put there, or
something submitted that was not over before it: never older, never anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.cut_oracle import (
    NEVER,
    SECTOR_BYTES,
    CutViolationError,
    History,
    Numbers,
    Op,
    sequences_of,
)
from tests.support.nbd_client import NbdClient
from tests.support.sites import Pair
from tests.support.stamping_writers import Mix, StampingWriter

Moment = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Flushed:
    """A FLUSH that was answered: all that `volume` had acknowledged before event
    `asked` is durable for whoever loses power at `moment` or later."""

    volume: int
    asked: int
    moment: int


class Promises:
    """Notes each durable promise with the moment at which it was made.

    `moment` numbers what may be lost, such as the writes that a disk has taken.
    """

    def __init__(self, history: History, moment: Moment = lambda: 0) -> None:
        self.history = history
        self.moment = moment
        self.flushed: list[Flushed] = []
        self.forced: list[tuple[int, int]] = []
        """(sequence, moment) of each write with FUA that was answered."""

    def durable(self, moment: int, ops: Sequence[Op]) -> set[int]:
        """Return the sequences of what a power loss at `moment` has to leave."""
        newest: dict[int, int] = {}
        for each in self.flushed:
            if each.moment <= moment:
                newest[each.volume] = max(newest.get(each.volume, 0), each.asked)
        found = {
            op.sequence
            for op in ops
            # Of an optional one nobody knows whether there was anything to flush.
            if not op.optional and op.acked <= newest.get(op.volume, 0)
        }
        found |= {sequence for sequence, when in self.forced if when <= moment}
        return found


class NotingClient:
    """A host's connection that notes what it was promised."""

    def __init__(self, client: NbdClient, volume: int, promises: Promises) -> None:
        self._client = client
        self._volume = volume
        self._promises = promises
        self.info = client.info

    async def flush(self) -> None:
        asked = self._promises.history.now()
        await self._client.flush()
        moment = self._promises.moment()
        self._promises.flushed.append(Flushed(self._volume, asked, moment))

    async def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        await self._note(self._client.write(offset, data, fua=fua), fua)

    async def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        await self._note(self._client.trim(offset, length, fua=fua), fua)

    async def write_zeroes(
        self, offset: int, length: int, *, no_hole: bool = False, fua: bool = False
    ) -> None:
        request = self._client.write_zeroes(offset, length, no_hole=no_hole, fua=fua)
        await self._note(request, fua)

    async def _note(self, request: Any, fua: bool) -> None:
        # The writer has put it into the history just now, in the same step.
        sequence = self._promises.history.ops[-1].sequence
        await request
        if fua:
            self._promises.forced.append((sequence, self._promises.moment()))

    def abort(self) -> None:
        self._client.abort()


async def noting_writers(
    pair: Pair, promises: Promises, seed: int, *, count: int, mix: Mix
) -> list[StampingWriter]:
    """Connect `count` writers that note promises; they are not started yet."""
    found = []
    for number in range(1, count + 1):
        clients: list[Any] = [
            NotingClient(await pair.primary.nbd(export), volume, promises)
            for volume, export in enumerate(pair.exports)
        ]
        found.append(
            StampingWriter(
                number,
                clients,
                promises.history,
                seed,
                region_bytes=[volume.region_bytes for volume in pair.volumes],
                mix=mix,
            )
        )
    return found


def check_after_power_loss(
    image: bytes | bytearray,
    volume: int,
    ops: Sequence[Op],
    durable: set[int],
    submitted_max: int,
) -> int:
    """Raise `CutViolationError` unless `image` is what power loss may leave.

    `ops` is the whole history, in order; nothing submitted after event
    `submitted_max` may be there. Returns how many sectors had to hold something.
    """
    found = sequences_of(image, volume)
    floor = np.full(len(found), -1, np.int64)
    zero_acked = np.zeros(len(found), np.int64)
    acked = np.full(len(ops) + 1, 0, np.int64)
    submitted = np.full(len(ops) + 1, -1, np.int64)
    for op in ops:
        acked[op.sequence], submitted[op.sequence] = op.acked, op.submitted
        if op.volume != volume or op.submitted > submitted_max:
            continue
        span = slice(op.first, op.first + op.count)
        if op.sequence in durable:
            np.maximum(floor[span], op.submitted, out=floor[span])
        if op.zeroes:
            np.maximum(zero_acked[span], op.acked, out=zero_acked[span])
    _refuse(found < 0, volume, "holds neither zeroes nor a stamp", found)
    _refuse(found > len(ops), volume, "holds a write that was never made", found)
    late = submitted[found] > submitted_max
    _refuse(late, volume, "holds a write from the future", found)
    holds_acked = np.where(found > 0, acked[found], zero_acked)
    _refuse(holds_acked < floor, volume, "lacks a write that was flushed", found, floor)
    return int(np.count_nonzero(floor >= 0))


def _refuse(
    wrong: Any, volume: int, what: str, found: Numbers, floor: Numbers | None = None
) -> None:
    if not wrong.any():
        return
    sector = int(np.argmax(wrong))
    text = (
        f"volume {volume}, sector {sector} (and {int(wrong.sum()) - 1} more) {what}: "
        f"it holds write {int(found[sector])}"
    )
    if floor is not None:
        text += f", and one submitted at event {int(floor[sector])} is durable"
    raise CutViolationError(text)


def forget_what_power_took(history: History, durable: set[int]) -> None:
    """After a power loss: what was not durable took effect, wholly, partly or not.

    Judges made afterwards know; older ones must not be asked again.
    """
    history.crash()
    event = history.now()
    for op in history.ops:
        if op.sequence not in durable:
            op.acked = event if op.acked == NEVER else max(op.acked, event)
            op.optional, op.whole = True, False


def sector_counts(pair: Pair) -> list[int]:
    return [volume.size_bytes // SECTOR_BYTES for volume in pair.volumes]
