"""A drain under way, over a session whose remote is the test."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from common.replication.cycle_messages import Credit, Hashes, Progress, Tracks
from primary_site.compression import Compression
from primary_site.drain import CycleDrain
from primary_site.likeness import Habit
from tests.support.primary_host_site import Site

CREDIT_BYTES = 1 << 24


class ToldSession:
    """A session that keeps what it is told.

    `holds_first`: its first frame is on its way until the second has been sent.
    """

    epoch = 1
    sent_bytes = 0
    unacknowledged_bytes = 0
    round_trip_seconds = 0.0
    clock_offset_seconds = 0.0

    def __init__(self, *, holds_first: bool = False) -> None:
        self._holds_first = holds_first
        self._second_sent = asyncio.Event()
        self.control: list[object] = []
        self.frames: list[Tracks | Hashes] = []
        self.checksums: list[int] = []

    async def send(self, message: object) -> int:
        self.control.append(message)
        return 0

    async def send_bulk(self, message: Tracks | Hashes) -> int:
        self.frames.append(message)
        checksum = random.Random(message.sequence).getrandbits(64)
        self.checksums.append(checksum)
        if message.sequence == 1:
            self._second_sent.set()
        elif message.sequence == 0 and self._holds_first:
            await self._second_sent.wait()
            await asyncio.sleep(0)  # whoever sent the second goes on before
        return checksum


class Drained:
    """A drain under way, and what the remote of it says."""

    def __init__(
        self,
        site: Site,
        *,
        holds_first: bool = False,
        delta: bool = False,
        compression: str | int = "off",
        habit: Habit | None = None,
    ) -> None:
        cut = site.group.cut
        assert cut is not None
        self.cycle_id = cut.cycle_id
        self.session = ToldSession(holds_first=holds_first)
        session: Any = self.session
        self.drain = CycleDrain(
            site.group,
            cut,
            session,
            Compression(compression, time.monotonic),
            delta=delta,
            habit=habit,
        )
        self.running = asyncio.create_task(self.drain.run())
        self.drain.on_credit(Credit(1, self.cycle_id, CREDIT_BYTES))

    async def frames(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.session.frames) < count:
                await asyncio.sleep(0.001)

    async def ended(self) -> None:
        async with asyncio.timeout(10):
            await self.running

    def progress(self, *sequences: int, cycle_id: bytes = b"") -> None:
        pairs = tuple((each, each) for each in sequences)
        self.drain.on_progress(Progress(1, cycle_id or self.cycle_id, pairs, 1))
