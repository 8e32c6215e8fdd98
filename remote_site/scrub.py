"""A scrub: everything that recovery would read, read back from the disk.

Journals are checked batch by batch against their checksums, devices for being
readable. What a device holds has no checksum of its own here: that is compared with
the sending site, by a verify.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from common.errors import CorruptStateError, StorageError
from common.ports import Clock
from common.storage.journal import Journal
from remote_site.secondary import SecondaryVolume
from remote_site.store import GroupStore

READ_BYTES_MAX = 1 << 20
"""Read of a device at once."""

BUSY_SHARE = 0.1
"""Of the time while a cycle is being received: what a scrub reads in, at most."""

FINDINGS_MAX = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """What could not be read back: file, offset in it, and what that means."""

    file: str
    offset_bytes: int
    reason: str


@dataclass(slots=True)
class Scrub:
    """One run over a group; what goes away meanwhile is left out."""

    store: GroupStore
    rate_bytes: int
    clock: Clock
    is_receiving: Callable[[], bool] = lambda: False
    """Tells whether a cycle is under way: it has the disk first."""
    read_bytes: int = 0
    total_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    findings_omitted: int = 0
    _next: float = 0.0

    async def run(self) -> None:
        """Read all back; returns with what was found. Raises nothing of storage."""
        self.total_bytes = await self.store.run_reader(self._sum)
        for point in self.store.points:
            if self.store.pin_cycle(point.cycle_id) is None:
                continue  # gone since
            try:
                for journal in self.store.journals_of(point.number):
                    await self._journal(journal)
            finally:
                self.store.unpin(point.number)
        for volume in self.store.secondaries:
            await self._device(volume)

    def _sum(self) -> int:
        """In a thread: what there is to read, in bytes; only for the progress."""
        journals = [
            journal.size_bytes
            for point in self.store.points
            for journal in self.store.journals_of(point.number)
        ]
        return sum(journals) + sum(
            length
            for volume in self.store.secondaries
            for _, length in _data(volume, 0, volume.geometry.size_bytes)
        )

    async def _journal(self, journal: Journal) -> None:
        position = 0
        try:
            position, end = await self.store.run_reader(journal.begin_check)
            while position < end:  # ends: each turn goes a batch further
                begun, began = position, self.clock.monotonic()
                position = await self.store.run_reader(
                    lambda at=position, end=end: journal.check_batch(at, end)  # type: ignore[misc]
                )
                await self._paced(position - begun, began)
        except CorruptStateError as error:
            self._found(journal.path, position, str(error))
        except StorageError as error:
            self._found(journal.path, position, str(error))

    async def _device(self, volume: SecondaryVolume) -> None:
        size, path = volume.geometry.size_bytes, volume.device.path
        offset = 0
        await self.store.run_reader(volume.device.drop_cache)
        while offset < size:  # ends: each turn goes further
            begun, began = offset, self.clock.monotonic()
            try:
                offset, read = await self.store.run_reader(
                    lambda at=offset: _read_on(volume, at)  # type: ignore[misc]
                )
            except StorageError as error:
                self._found(
                    path,
                    offset,
                    f"{error}; replace the disk under it, then farshore verify at "
                    "the sending site, with --repair",
                )
                read = 0
                offset = min(begun + READ_BYTES_MAX, size)
            await self._paced(read, began)

    def _found(self, file: str, offset: int, reason: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(file, offset, reason))
        else:
            self.findings_omitted += 1

    async def _paced(self, read_bytes: int, began: float) -> None:
        """Rest after a piece: for the rate, and for longer beside a cycle."""
        self.read_bytes += read_bytes
        now = self.clock.monotonic()
        self._next = max(self._next, now) + read_bytes / self.rate_bytes
        rest = self._next - now
        if self.is_receiving():
            rest = max(rest, (now - began) * (1 / BUSY_SHARE - 1))
        await asyncio.sleep(max(rest, 0.0))


def _data(volume: SecondaryVolume, offset: int, length: int) -> list[tuple[int, int]]:
    return [
        (at, size)
        for at, size, is_hole in volume.byte_extents(offset, length)
        if not is_hole
    ]


def _read_on(volume: SecondaryVolume, offset: int) -> tuple[int, int]:
    """In a thread: skip a hole or read a piece; return (next offset, bytes read)."""
    size = volume.geometry.size_bytes
    for at, length, is_hole in volume.byte_extents(offset, size - offset):
        if is_hole:
            return at + length, 0
        length = min(length, READ_BYTES_MAX)
        volume.device.read_once(at, length)
        return at + length, length
    return size, 0
