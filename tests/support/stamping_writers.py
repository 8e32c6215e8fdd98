"""Hosts at full speed: several writers that stamp all volumes of a group at once.

Each writer has one connection to every volume and keeps some requests in flight
over all of them together. Requests are of any 512-byte granularity, overlap those
of other writers, and are writes, trims and zeroings, with and without FUA; now
and then a FLUSH. Every one is in the `History`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.cut_oracle import SECTOR_BYTES, History, stamp
from tests.support.nbd_client import NbdClient
from tests.support.sites import Pair

SECTORS_MAX = 96
"""Of an ordinary request: across several 4 KiB tracks, unaligned at both ends."""

LONG_SECTORS = 4096
"""Of a rare trim: 2 MiB, longer than what a server has to do in one piece."""

WHOLE_SECTORS_MAX = 2048
"""Up to 1 MiB, and within one region, a request is never divided by a cut."""


@dataclass(frozen=True)
class Mix:
    """Shares of what a writer does; the rest are plain writes."""

    trim: float = 0.08
    zero: float = 0.06
    long_trim: float = 0.004
    fua: float = 0.05
    flush: float = 0.02
    hot: float = 0.4
    """Share of requests within a few tracks that all writers love."""
    sectors_max: int = 1 << 62
    """Of each volume only this much is written."""


class StampingWriter:
    """One writer; stops when its connections break or `stop` is called."""

    def __init__(
        self,
        number: int,
        clients: Sequence[NbdClient],
        history: History,
        seed: int,
        *,
        region_bytes: Sequence[int],
        depth: int = 4,
        mix: Mix | None = None,
    ) -> None:
        self._number = number
        self._clients = clients
        self._history = history
        self._region_sectors = [size // SECTOR_BYTES for size in region_bytes]
        self._random = random.Random(f"{seed}/{number}")
        self._depth = depth
        self._mix = mix or Mix()
        self._running = asyncio.Event()
        self._idle = asyncio.Event()
        self._busy = 0
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        self.acked_count = 0

    def start(self) -> None:
        self._running.set()
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._depth)]

    async def pause(self) -> None:
        """Return once nothing of this writer is in flight."""
        self._running.clear()
        while self._busy:
            self._idle.clear()
            await self._idle.wait()

    def resume(self) -> None:
        self._running.set()

    async def stop(self) -> None:
        """Stop, with everything acknowledged; raises what went wrong."""
        self._stopped = True
        self._running.set()
        await asyncio.gather(*self._tasks)

    def check(self) -> None:
        """Raise what a task of this writer failed with."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def ended(self) -> None:
        """Wait until the connections broke, as they do when the daemon is killed."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def abort(self) -> None:
        """Drop everything, at the end of a test that may have failed."""
        for task in self._tasks:
            task.cancel()
        for client in self._clients:
            client.abort()

    async def _work(self) -> None:
        while not self._stopped:
            await self._running.wait()
            self._busy += 1
            try:
                await self._one()
            finally:
                self._busy -= 1
                if not self._busy:
                    self._idle.set()

    async def _one(self) -> None:
        mix, choice = self._mix, self._random.random()
        volume = self._random.randrange(len(self._clients))
        client = self._clients[volume]
        if choice < mix.flush:
            await client.flush()
            return
        sectors = min(client.info.size_bytes // SECTOR_BYTES, mix.sectors_max)
        first, count = self._place(sectors)
        fua = self._random.random() < mix.fua
        choice -= mix.flush
        if choice < mix.long_trim:
            count = min(LONG_SECTORS, sectors)
            first = min(first, sectors - count)
        zeroes = choice < mix.long_trim + mix.trim + mix.zero
        op = self._history.submit(
            self._number,
            volume,
            first,
            count,
            zeroes=zeroes,
            whole=self._is_whole(volume, first, count),
        )
        offset, length = first * SECTOR_BYTES, count * SECTOR_BYTES
        if not zeroes:
            await client.write(offset, stamp(op), fua=fua)
        elif choice < mix.long_trim + mix.trim:
            await client.trim(offset, length, fua=fua)
        else:
            no_hole = self._random.random() < 0.5
            await client.write_zeroes(offset, length, no_hole=no_hole, fua=fua)
        self._history.ack(op)
        self.acked_count += 1

    def _is_whole(self, volume: int, first: int, count: int) -> bool:
        region = self._region_sectors[volume]
        is_in_one = first // region == (first + count - 1) // region
        return is_in_one and count <= WHOLE_SECTORS_MAX

    def _place(self, sectors: int) -> tuple[int, int]:
        count = min(self._random.randint(1, SECTORS_MAX), sectors)
        if self._random.random() < 0.3:
            count = min(8 * self._random.randint(1, 8), sectors)
        if self._random.random() < self._mix.hot:
            first = self._random.randrange(min(600, sectors))
        else:
            first = self._random.randrange(sectors)
        if self._random.random() < 0.02:
            first = sectors - count  # the last track may be a short one
        return min(first, sectors - count), count


async def connect_writers(
    pair: Pair,
    history: History,
    seed: int,
    *,
    count: int,
    depth: int = 4,
    mix: Mix | None = None,
) -> list[StampingWriter]:
    """Connect `count` writers to every export; they are not started yet."""
    return [
        StampingWriter(
            number,
            [await pair.primary.nbd(export) for export in pair.exports],
            history,
            seed,
            region_bytes=[volume.region_bytes for volume in pair.volumes],
            depth=depth,
            mix=mix,
        )
        for number in range(1, count + 1)
    ]
