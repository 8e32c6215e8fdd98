"""A group under load that is cut all the time, for tests that do harm to it.

Keeps the oracle: what hosts wrote, which points were promised, and judges of the
points at the remote and of the volumes at the primary.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from common.errors import FarshoreError
from tests.support.cut_oracle import (
    SECTOR_BYTES,
    CutJudge,
    History,
    Op,
    Window,
)
from tests.support.nbd_client import OptionRefusedError
from tests.support.sites import PATIENCE_SECONDS, Pair, until
from tests.support.stamping_writers import Mix, StampingWriter, connect_writers

RETRY_SECONDS = 0.02


@dataclass(frozen=True)
class CycleCost:
    """What a committed cycle sent and compared, in tracks."""

    sent: int
    compared: int
    wire_bytes: int


class Endurance:
    """Writers, a cutter, and the judges of one pair."""

    def __init__(self, pair: Pair, seed: int, *, writers: int, mix: Mix) -> None:
        sectors = [volume.size_bytes // SECTOR_BYTES for volume in pair.volumes]
        self.pair = pair
        self.history = History()
        self.promised = 0
        """The newest point that the primary has called committed."""
        self.stamped_sectors = 0
        self.points_judged = 0
        self.points_compared = 0
        """With the primary, byte for byte."""
        self._seed = seed
        self._writer_count = writers
        self._mix = mix
        self._point_judge = CutJudge(sectors)
        self._host_judge = CutJudge(sectors)
        self._judged = 0
        self._writers: list[StampingWriter] = []
        self._may_cut = asyncio.Event()
        self._cutting = False

    @contextlib.asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """Write and cut until the block ends."""
        cutter = asyncio.create_task(self._cut_for_ever())
        try:
            await self.connect_writers()
            self._may_cut.set()
            yield
            for writer in self._writers:
                await writer.stop()
        finally:
            cutter.cancel()
            await asyncio.gather(cutter, return_exceptions=True)
            for writer in self._writers:
                writer.abort()

    async def connect_writers(self) -> None:
        """Attach the hosts again, after a start of the primary."""
        self._seed += 1
        self._writers = await connect_writers(
            self.pair,
            self.history,
            self._seed,
            count=self._writer_count,
            mix=self._mix,
        )
        for writer in self._writers:
            writer.start()

    async def host_lost_primary(self) -> None:
        """After a kill: wait until every host has noticed; settle what was open."""
        for writer in self._writers:
            await writer.ended()
            writer.abort()
        self._writers = []
        self.history.crash()

    async def rest_hosts(self) -> None:
        """Return once nothing is in flight; nothing more comes until the resume."""
        for writer in self._writers:
            await writer.pause()

    def resume_hosts(self) -> None:
        for writer in self._writers:
            writer.resume()

    async def progress(self, changes: int) -> None:
        """Wait for so many acknowledged changes: hosts are not stalled."""
        goal = self.acked() + changes
        await until(lambda: self.acked() >= goal, f"{changes} more host writes")
        for writer in self._writers:
            writer.check()

    def acked(self) -> int:
        return sum(writer.acked_count for writer in self._writers)

    # -- cuts --------------------------------------------------------------------------

    async def _cut_for_ever(self) -> None:
        while True:
            await self._may_cut.wait()
            self._cutting = True
            try:
                answer = await self.pair.cut()
                self.promised = max(self.promised, answer["number"])
            except FarshoreError:
                # The primary is gone, or has no link: that is what is tested.
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                self._cutting = False

    async def stop_cutting(self) -> None:
        """Return once no cut is under way any more."""
        self._may_cut.clear()
        await until(lambda: not self._cutting, "the last cut is answered")

    def go_on_cutting(self) -> None:
        self._may_cut.set()

    # -- judging -----------------------------------------------------------------------

    def point(self) -> dict[str, Any] | None:
        """Return the newest point at the remote; it may never be an older one."""
        point: dict[str, Any] | None = self.pair.remote.group()["recovery_point"]
        number = 0 if point is None else point["number"]
        assert number >= self.promised, "a promised recovery point is gone"
        return point

    async def judge_newest_point(self) -> None:
        """Read the newest point, while newer ones may be committed, and judge it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (point := self.point()) is not None:
                number = point["number"]
                try:
                    images = await self.pair.images(
                        self.pair.remote, f"@{number}", sparse=True
                    )
                except OptionRefusedError:
                    continue  # a newer one has been committed: that one then
                if number >= self._judged:
                    await self._judge(point, images)
                return

    async def _judge(self, point: dict[str, Any], images: list[bytearray]) -> None:
        window = self.history.window(0, self.history.now(), point["cut_time"])
        self._judged = point["number"]
        ops = list(self.history.ops)
        verdict = await asyncio.to_thread(self._point_judge.check, images, window, ops)
        self.stamped_sectors = verdict.stamped_sectors
        self.points_judged += 1

    async def judge_host_volumes(self) -> None:
        """Every acknowledged write is on the primary, with nothing in flight."""
        images = await self.pair.images(self.pair.primary, sparse=True)
        now = self.history.now()
        ops = list(self.history.ops)
        await asyncio.to_thread(self._host_judge.check, images, Window(now, now), ops)

    async def check_next_cut_is_exact(self) -> dict[str, Any]:
        """With the hosts at rest, the next point is the primary, byte for byte."""
        await self.stop_cutting()
        await self.rest_hosts()
        await self.pair.connected()
        await self.judge_host_volumes()
        cut = await self.pair.cut()
        self.promised = max(self.promised, cut["number"])
        host = await self.pair.images(self.pair.primary, sparse=True)
        point = self.point()
        assert point is not None
        images = await self.pair.images(self.pair.remote, sparse=True)
        for name, at_host, at_remote in zip(
            self.pair.exports, host, images, strict=True
        ):
            assert at_host == at_remote, f"{name} at the remote is not the primary's"
        self.points_compared += 1
        await self._judge(point, images)
        self.resume_hosts()
        return point

    # -- what it cost ------------------------------------------------------------------

    def cycles(self) -> list[CycleCost]:
        """Return what every committed cycle cost, oldest first."""
        return [
            CycleCost(
                event.get("tracks", 0),
                event.get("tracks_compared", 0),
                event.get("bytes_on_wire", 0),
            )
            for event in self.pair.primary.events("cycle_committed")
        ]

    def changed_since(self, event: int, track_bytes: int) -> int:
        """Return how many tracks changes have touched that were not surely over."""
        return touched_tracks(
            (op for op in self.history.ops if op.acked > event), track_bytes
        )


def touched_tracks(ops: Iterable[Op], track_bytes: int) -> int:
    per_track = track_bytes // SECTOR_BYTES
    found: set[tuple[int, int]] = set()
    for op in ops:
        last = (op.first + op.count - 1) // per_track
        found |= {(op.volume, n) for n in range(op.first // per_track, last + 1)}
    return len(found)
