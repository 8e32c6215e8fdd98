"""The drain: every track of the PPRC bitmap, read at the cut, sent and acked.

Workers take units from the plan, read them at the cut, encode them in a thread,
and send them within the remote's credit over the least busy link. PROGRESS from
the remote sets acked bits; runs that it holds otherwise than their hashes or their
differences say come back as units to send whole. It ends when nothing is left to
send and nothing unacknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager

from common.errors import ProtocolError, StorageError
from common.replication.cycle_messages import (
    Committed,
    Credit,
    CycleBegin,
    CycleEnd,
    Hashes,
    NeedFull,
    Progress,
    Tracks,
)
from primary_site.background import first_of
from primary_site.changes import pages_of_tracks
from primary_site.compression import Compression
from primary_site.cut_reader import CutReader, CutUnreadableError
from primary_site.drain_plan import (
    LARGE_FRAMES,
    FrameBytes,
    Gatherer,
    Unit,
    full_frames,
    plan,
)
from primary_site.drain_waits import DrainWaits, Stage
from primary_site.frame_ledger import FrameLedger, without
from primary_site.frames import FrameMaker
from primary_site.group import ConsistencyGroup, Cut
from primary_site.likeness import Habit
from primary_site.session import SendingSession

WORKERS = 4
"""Units under way at once: some are read and encoded while others are sent, and a fast
link never waits for one. With several links at least one more than there are links, so
that one that stalls keeps no other idle."""

WAIT_SECONDS = 0.1
"""A wait for the remote is looked at so often: is anything still on its way there?"""

UNTYPICAL_BYTES = 64 << 20
"""A cycle of holes larger than this tells nothing of how long others will take."""


class CycleDrain:
    """One cycle over one session. A new session of the same cycle has a new drain."""

    def __init__(
        self,
        group: ConsistencyGroup,
        cut: Cut,
        session: SendingSession,
        compression: Compression,
        *,
        delta: bool = False,
        habit: Habit | None = None,
        frame_bytes: FrameBytes = full_frames,
        workers: int = WORKERS,
    ) -> None:
        """`delta`: the remote takes differences to what it holds. `habit`: it takes
        references, too, and this is what was learnt of them. `frame_bytes`: how much a
        frame made now should hold."""
        self._group = group
        self._cut = cut
        self._session = session
        self._compression = compression
        self._frame_bytes = frame_bytes
        self._workers = workers
        self._credit = 0
        self._ledger = FrameLedger()
        self._active = 0
        self._again: deque[Unit] = deque()
        self._units: AsyncIterator[Unit] | None = None
        self._units_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._readers: list[CutReader] = []
        self.tracks_sent = 0
        self.tracks_compared = 0
        self.tracks_refused = 0
        self.bytes_done = 0
        self.size_bytes = 0
        """What this session has to have acknowledged, in bytes of tracks."""
        self.data_bytes = 0
        """Of tracks that were sent as they are: no holes, no hashes."""
        self.waits = DrainWaits()
        self._frames = FrameMaker(
            self._readers, compression, self.waits, delta=delta, habit=habit
        )
        self._taken_bytes = 0
        self._wire_before = session.sent_bytes

    async def run(self) -> None:
        """Send everything; return when all of it is durable at the remote.

        Raises `RelationEndedError` (abandon the cycle: so also where the device or
        the target can't be read, as `CutUnreadableError`) and `ConnectionLostError`
        (go on with the next session).
        """
        for volume in self._group.volumes:
            standing = volume.preserver.standing()
            assert standing is not None
            self._readers.append(CutReader(volume, standing))
            changes, track_bytes = volume.changes, volume.geometry.track_bytes
            assert changes.pprc is not None
            self.size_bytes += (changes.pprc.count - changes.acked.count) * track_bytes
        cut = self._cut
        await self._session.send(
            CycleBegin(
                self._session.epoch, cut.number, cut.cycle_id, cut.cut_ns, cut.label
            )
        )
        self._units = plan(self._readers, self._bytes_of_frame)
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._workers):
                    tasks.create_task(self._work())
        except BaseExceptionGroup as failed:
            error = first_of(failed)
            if isinstance(error, StorageError):
                raise CutUnreadableError(str(error)) from failed
            raise error from failed
        for volume in self._group.volumes:
            changes = volume.changes
            assert changes.pprc is not None
            assert changes.acked.count == changes.pprc.count, "drained, not acked"

    async def end(self) -> None:
        """Ask for the commit. Only once `run` and the group's destage are through."""
        await self._session.send(
            CycleEnd(
                self._session.epoch,
                self._cut.cycle_id,
                self._ledger.count,
                self._ledger.digest,
            )
        )

    async def committed(self, answer: asyncio.Task[Committed]) -> Committed:
        """`end`, and wait for the answer."""
        began = _now()
        await self.end()
        found = await answer
        link_seconds = min(self._session.round_trip_seconds, _now() - began)
        self.waits.add(Stage.LINK, link_seconds)
        self.waits.add(Stage.REMOTE, _now() - began - link_seconds)
        return found

    # -- figures -----------------------------------------------------------------------

    @property
    def tracks_differenced(self) -> int:
        return self._frames.tracks_differenced

    @property
    def delivered_bytes(self) -> float:
        """Bytes of tracks that the remote's machine has got, about."""
        sent = self._session.sent_bytes - self._wire_before
        if sent <= 0:
            return self.bytes_done
        share = min(self._session.unacknowledged_bytes / sent, 1.0)
        taken = min(self._taken_bytes, self.size_bytes)
        return max(self.bytes_done, taken * (1 - share))

    @property
    def is_typical(self) -> bool:
        """Tell whether other cycles may be expected to take as long for as much."""
        return (
            not self.tracks_compared
            and self.size_bytes <= 4 * self.data_bytes + UNTYPICAL_BYTES
        )

    def waiting(self, stage: Stage) -> AbstractContextManager[None]:
        """Count the time within as waited for `stage`."""
        return self.waits.during(stage, self._compression.monotonic)

    # -- what the remote says --------------------------------------------------------

    def on_credit(self, message: Credit) -> None:
        if message.cycle_id == self._cut.cycle_id:
            self._credit += message.credit_bytes
            self._tell()

    def on_progress(self, message: Progress) -> None:
        if message.cycle_id != self._cut.cycle_id:
            return
        self._group.remote_relation.note_progress(message.count)
        for unit in self._ledger.acknowledged(message):
            self._ack(unit)
        self._tell()

    def on_need_full(self, message: NeedFull) -> None:
        if message.cycle_id != self._cut.cycle_id:
            return
        unit = self._ledger.wanted_whole(message)
        if unit.referred:
            self._frames.refuse_references(unit.volume)
        track_bytes = self._group.volumes[unit.volume].geometry.track_bytes
        gathered = Gatherer(unit.volume, track_bytes, self._bytes_of_frame, whole=True)
        for run in message.runs:
            if not unit.hashed:
                self.tracks_refused += run[1]
            self._again.extend(gathered.add(*run))
        self._again.extend(gathered.rest())
        self._tell()

    def on_frames_lost(
        self, cycle_id: bytes, open_cycle_id: bytes | None, sequences: Sequence[int]
    ) -> None:
        """Send frames again, under their numbers: the remote never received them."""
        if cycle_id != self._cut.cycle_id:
            return
        if open_cycle_id != cycle_id:
            raise ProtocolError("the cycle under way is not open at the remote")
        for unit in self._ledger.lost(sequences):
            self._credit += unit.cost_bytes
            self._again.append(unit.anew())
        self._tell()

    def _ack(self, unit: Unit) -> None:
        volume = self._group.volumes[unit.volume]
        for first, count in without(unit.runs, unit.excluded):
            volume.changes.ack(first, count)
            volume.heat.dirty_acked_pages.update(pages_of_tracks(first, count))
            acked_bytes = volume.geometry.byte_range(first, count)[1]
            self.bytes_done += acked_bytes
            self._group.upkeep.note_acked(acked_bytes)

    # -- workers ---------------------------------------------------------------------

    async def _work(self) -> None:
        while (unit := await self._next()) is not None:
            self._active += 1
            try:
                await self._send(unit)
            finally:
                self._active -= 1
                self._tell()

    async def _next(self) -> Unit | None:
        while True:  # ends when everything is acknowledged, or with the session
            if self._again:
                return self._again.popleft()
            unit = await self._planned()
            if unit is not None:
                return unit
            if self._again:
                continue
            if self._ledger.is_settled and not self._active:
                return None
            # While others send, this one waits for them, not for the remote.
            await self._woken(None if self._active else Stage.REMOTE)

    def _bytes_of_frame(self, most: int) -> int:
        if self._compression.gains_by_size:
            most *= LARGE_FRAMES
        return self._frame_bytes(most)

    async def _planned(self) -> Unit | None:
        async with self._units_lock:
            if self._units is None:
                return None
            async for unit in self._units:
                return unit
            self._units = None
            return None

    async def _send(self, unit: Unit) -> None:
        if unit.hashed:
            await self._send_hashes(unit)
            return
        packed = await self._frames.packed(unit)
        await self._take_credit(unit, packed.raw_bytes)
        message = Tracks(
            self._session.epoch,
            self._cut.cycle_id,
            self._number(unit),
            unit.volume,
            packed.raw_bytes,
            packed.payload,
        )
        self.tracks_sent += sum(count for _, count in unit.runs)
        began = self._compression.monotonic()
        await self._send_frame(unit, message)
        self._compression.sent(packed, self._compression.monotonic() - began)

    async def _send_hashes(self, unit: Unit) -> None:
        payload = await self._frames.hashes(unit)
        ((first, count),) = unit.based = unit.runs
        await self._take_credit(unit, len(payload))
        message = Hashes(
            self._session.epoch,
            self._cut.cycle_id,
            self._number(unit),
            unit.volume,
            first,
            count,
            payload,
        )
        self.tracks_compared += count
        await self._send_frame(unit, message)

    async def _send_frame(self, unit: Unit, message: Tracks | Hashes) -> None:
        with self.waiting(Stage.LINK):
            checksum = await self._session.send_bulk(message)
        self._ledger.note_sent(unit, checksum)

    def _number(self, unit: Unit) -> int:
        if unit.sequence is None:  # else it goes again
            track_bytes = self._group.volumes[unit.volume].geometry.track_bytes
            unit_bytes = sum(count for _, count in unit.runs) * track_bytes
            self._taken_bytes += unit_bytes
            if not (unit.zero or unit.hashed):
                self.data_bytes += unit_bytes
        return self._ledger.number(unit)

    async def _take_credit(self, unit: Unit, size: int) -> None:
        unit.cost_bytes = size
        while self._credit < size:  # ends with CREDIT, or with the session
            await self._woken(Stage.REMOTE)
        self._credit -= size

    def _tell(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()

    async def _woken(self, stage: Stage | None) -> None:
        """Wait for something of the remote; ends after `WAIT_SECONDS` all the same.

        Counted as the link's while bytes are on their way, else as `stage`'s; not at
        all without one.
        """
        began, wake = _now(), self._wake
        was_sending = self._session.unacknowledged_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                await wake.wait()
        if stage is None:
            return
        if was_sending and self._session.unacknowledged_bytes:
            stage = Stage.LINK
        self.waits.add(stage, _now() - began)


def _now() -> float:
    return asyncio.get_running_loop().time()
