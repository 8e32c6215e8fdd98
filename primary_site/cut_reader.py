"""Reading tracks as they were at the cut, while hosts go on writing.

Read the device, then look at the map again on the loop: a track still clear was
read untouched; one that is preserving is waited for; one that is preserved is
read from the target. Whatever was read counts only if the relation still stands
after the read (I6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from common.errors import FarshoreError, StorageError
from common.replication.tracks import RunData
from common.storage.extents import (
    HOLE_AND_ZERO,
    Bits,
    Extents,
    bits_of,
    hole_bits,
    tell_bits,
    tell_changed,
    window,
)
from common.storage.flashcopy import Runs
from common.storage.zeroes import is_zero
from primary_site.preserving import read_target
from primary_site.standing import Standing
from primary_site.volume import PrimaryVolume

T = TypeVar("T")


class RelationEndedError(FarshoreError):
    """The FlashCopy can't be read any more: its cycle is to be abandoned."""


class CutUnreadableError(RelationEndedError):
    """The device or the target can't be read now: the next cycle tries again."""


class CutReader:
    """Reads one volume at the cut of `standing`."""

    def __init__(
        self, volume: PrimaryVolume, standing: Standing, *, once: bool = False
    ) -> None:
        """`once`: what is read is not worth keeping in memory."""
        self.volume = volume
        self._standing = standing
        self._once = once

    async def read(self, runs: Runs) -> list[RunData]:
        """Return the runs' bytes at the cut; zero runs with data None.

        Raises `RelationEndedError`, `StorageError` of the device.
        """
        read = await self.volume.threads.run(self._read_device, runs)
        await self._settled(runs)
        self.check()  # before the bitmap is trusted: it must be this cut's
        preserved = self._preserved(runs)

        def overlay() -> list[RunData]:
            return list(map(self._overlay, runs, read, preserved))

        return await self._looking(overlay)

    async def made(
        self,
        runs: Runs,
        make: Callable[[list[RunData]], T],
        beside: Sequence[Standing] = (),
    ) -> T:
        """Return what `make` makes, in a thread, of the runs' bytes at the cut.

        Reading and making are one hop: what was made so counts only if no more of the
        tracks are preserved after it than were before it. Else they are read as `read`
        does, which no writing of hosts can keep from its end. The targets of `beside`
        are not reused meanwhile. Raises as `read` does, and what `make` raises.
        """
        self.check()
        flashcopy = self.volume.changes.flashcopy
        if not flashcopy.is_preserving_any(runs):
            before = self._preserved(runs)

            def at_once() -> T:
                read = self._read_device(runs)
                return make(list(map(self._overlay, runs, read, before)))

            made = await self._looking(at_once, beside)
            self.check()  # before the bitmap is trusted: it must be this cut's
            if self._preserved(runs) == before:
                return made
        found = await self.read(runs)
        return await self._looking(lambda: make(found), beside)

    def _read_device(self, runs: Runs) -> list[bytes | bytearray]:
        device, geometry = self.volume.device, self.volume.geometry
        read = device.read_once if self._once else device.read
        return [read(*geometry.byte_range(*run)) for run in runs]

    async def allocation(self, offset: int, length: int) -> Extents:
        """Return (length, flags) at the cut from `offset` on; may stop short.

        A hole is said of a track only where its content at the cut was looked at: in
        the target, if it was preserved before the look; in the device, if it is
        clear still after it. What was overwritten meanwhile is data: always safe.
        Raises as `read` does: an ended relation's answer is never given.
        """
        self.check()
        flashcopy, geometry = self.volume.changes.flashcopy, self.volume.geometry
        first, count = window(geometry, offset, length)
        preserved = bits_of(flashcopy.bitmap, first, count)
        for track in flashcopy.preserving(first, count):
            preserved[track - first] = False
        span = geometry.byte_range(first, count)
        device, target = self.volume.device, self._standing.target

        def look() -> tuple[Bits, Bits]:
            now = hole_bits(device.extents(*span), geometry, first, count)
            if not preserved.any():
                return now, preserved
            kept = hole_bits(target.extents(*span), geometry, first, count)
            return now, kept & preserved

        now, kept = await self._looking(look)
        self.check()  # before the bitmap is trusted: it must be this cut's
        clear = ~bits_of(flashcopy.bitmap, first, count)
        return tell_bits(
            (now & clear) | kept, geometry, first, offset, length, HOLE_AND_ZERO
        )

    def changed(self, offset: int, length: int) -> Extents:
        """Return what has changed from the cut before to this one; may stop short.

        That is what the cut transferred. Carried tracks may be among it: of a cycle
        that was abandoned, or suspected after a crash. More than has changed since
        the cut before, never less. Raises `RelationEndedError`.
        """
        self.check()
        changes = self.volume.changes
        return tell_changed(changes.at_cut, self.volume.geometry, offset, length)

    async def _looking(
        self, job: Callable[[], T], beside: Sequence[Standing] = ()
    ) -> T:
        """Run a job that looks into targets, which are not reused meanwhile.

        What fails once the relation has ended fails for that.
        """
        try:
            return await self._standing.run(self.volume.threads, job, beside)
        except StorageError:
            self.check()
            raise

    async def _settled(self, runs: Runs) -> None:
        flashcopy = self.volume.changes.flashcopy
        while flashcopy.is_preserving_any(runs):
            settled = asyncio.Event()
            flashcopy.when_settled(settled.set)
            await settled.wait()

    def _preserved(self, runs: Runs) -> list[Runs]:
        """Return what of each run lies in the target. Few calls: there are many."""
        bitmap = self.volume.changes.flashcopy.bitmap
        test, marked = bitmap.test, bitmap.runs
        return [
            ([run] if test(run[0]) else [])
            if run[1] == 1
            else list(marked(run[0], sum(run)))
            for run in runs
        ]

    def check(self) -> None:
        """Raise if the relation of this cut has ended."""
        relation = self._standing.relation
        if not relation.readable:
            raise RelationEndedError(relation.why_invalid or "withdrawn")

    def _overlay(
        self, run: tuple[int, int], read: bytes | bytearray, preserved: Runs
    ) -> RunData:
        """In a thread: put preserved tracks over what the device held."""
        data: bytes | bytearray = read
        geometry = self.volume.geometry
        if preserved == [run]:
            data = read_target(self._standing, *geometry.byte_range(*run))
        elif preserved:
            data = bytearray(read)
            start, _ = geometry.byte_range(*run)
            for first, count in preserved:
                offset, length = geometry.byte_range(first, count)
                old = read_target(self._standing, offset, length)
                data[offset - start : offset - start + length] = old
        return RunData(*run, None if is_zero(data) else data)
