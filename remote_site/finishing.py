"""What has been applied made durable and acknowledged, and a whole cycle committed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from common.ports import Clock
from common.replication.cycle_messages import (
    RUNS_MAX,
    Committed,
    Credit,
    CycleBegin,
    Hashes,
    Progress,
    Tracks,
)
from common.replication.messages import Message
from remote_site.receiver import Receiver, credit_cost
from remote_site.store import GroupStore

UNFLUSHED_BYTES_MAX = 4 << 20
FLUSH_SECONDS = 0.5
"""A flush begins at the latest after so much applied, or so long. Credit comes back
with it: a quarter of the window, so that the sender is not out of it meanwhile."""


class Finishing:
    """One task of a session does all of it, in turn: `run`, never cancelled."""

    def __init__(
        self,
        receiver: Receiver,
        store: GroupStore,
        send: Callable[[Message], Awaitable[None]],
        whole: Callable[[bytes], frozenset[int]],
        on_committed: Callable[[CycleBegin, float], None],
        clock: Clock,
    ) -> None:
        """`whole` tells which joining volumes a cycle makes whole. `on_committed` is
        told of a cycle, and of the seconds that its commit took."""
        self.has_more: Callable[[], bool] = lambda: False
        """Tells whether frames wait that a flush could soon cover as well."""
        self._receiver = receiver
        self._store = store
        self._send = send
        self._whole = whole
        self._on_committed = on_committed
        self._clock = clock
        self._is_stopping = False
        self._unflushed_bytes = 0
        self._unflushed_since = 0.0
        self._wake = asyncio.Event()

    def applied(self, batch: Sequence[Tracks | Hashes]) -> None:
        """Take note of frames that are on the secondary volume, not yet durable."""
        if not self._unflushed_bytes:
            self._unflushed_since = self._clock.monotonic()
        for message in batch:
            self._receiver.applied(message)
            self._unflushed_bytes += credit_cost(message)
        self.wake()

    def wake(self) -> None:
        """Look whether there is something to do."""
        self._wake.set()

    def stop(self) -> None:
        """Begin with no further flush and no commit."""
        self._is_stopping = True

    async def run(self) -> None:
        while not self._is_stopping:
            await self._woken()
            self._wake.clear()
            if self._is_flush_due():
                await self._flush()
            if self._receiver.is_complete and not self._is_stopping:
                await self._commit()

    async def _woken(self) -> None:
        """Wait for something to do; while unflushed work waits, not for long."""
        if not self._unflushed_bytes:
            await self._wake.wait()
            return
        left = self._unflushed_since + FLUSH_SECONDS - self._clock.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            return

    def _is_flush_due(self) -> bool:
        if not self._unflushed_bytes or self._is_stopping:
            return False
        waited = self._clock.monotonic() - self._unflushed_since
        return (
            not self.has_more()
            or self._unflushed_bytes >= UNFLUSHED_BYTES_MAX
            or waited >= FLUSH_SECONDS
        )

    async def _flush(self) -> None:
        """Make durable what has been applied, then acknowledge exactly that.

        Order: PROGRESS, then the CREDIT for it (see `Receiver.take_credit`).
        """
        epoch = self._receiver.epoch
        applied = self._receiver.take_applied()
        self._unflushed_bytes = 0
        if applied is None:
            return
        count = await self._store.flush()
        if not self._receiver.flushed(applied):
            return
        for start in range(0, len(applied.sequences), RUNS_MAX):
            pairs = applied.sequences[start : start + RUNS_MAX]
            await self._send(Progress(epoch, applied.cycle_id, pairs, count))
        if given := self._receiver.take_credit():
            await self._send(Credit(epoch, applied.cycle_id, given))

    async def _commit(self) -> None:
        began = self._clock.monotonic()
        cycle = self._receiver.start_commit()
        relation_id = await self._store.commit(
            number=cycle.cycle_number,
            cycle_id=cycle.cycle_id,
            cut_ns=cycle.cut_ns,
            label=cycle.label,
            whole=self._whole(cycle.cycle_id),
        )
        self._receiver.committed()
        self._on_committed(cycle, self._clock.monotonic() - began)
        await self._send(
            Committed(
                self._receiver.epoch,
                cycle.cycle_number,
                cycle.cycle_id,
                cycle.cut_ns,
                relation_id,
            )
        )
