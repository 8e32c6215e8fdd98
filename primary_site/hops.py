"""Hops: how batches of host writes get to a thread and back.

A hop costs as much as two or three small requests, so as many as have gathered
share one. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.ports import Threads
from primary_site.preserving import HostWriteBatch

HOPS_MAX = 6
"""Threads of a device that may write at once; its others read and sync."""

GATHERED_MAX = 32
"""Batches gathered for one hop: bounds how long the first of them waits."""

PATIENCE_SECONDS = 0.002
"""A hop from memory to the page cache ends well within it; a longer one waits for
the device, and more of them at once are then worth their cost."""

Wrote = Callable[[BaseException | None], None]


class WriteHops:
    """Runs batches of one volume in its threads, in the order they came."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._queued: list[tuple[HostWriteBatch, Wrote]] = []
        self._under_way = 0
        self._is_deep = False
        """The last hop carried several batches: the host keeps many in flight."""
        self._gathering = False
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, batch: HostWriteBatch, wrote: Wrote) -> None:
        """Run the batch soon; call `wrote(error)` once its thread has returned."""
        self._queued.append((batch, wrote))
        self._hop()

    def _hop(self) -> None:
        """Take everything queued to one thread, unless one is at it already.

        What arrives meanwhile gathers for the next hop: the busier the volume, the
        fewer hops a request costs. A thread that takes long (it waits for the
        device) is not waited for: another takes what has gathered.
        """
        if not self._queued or self._under_way == HOPS_MAX or self._gathering:
            return
        if self._under_way:
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(PATIENCE_SECONDS, self._overdue)
        elif self._is_deep:
            self._gather(0)
        else:
            self._go()

    def _gather(self, seen: int) -> None:
        """Go once a turn of the loop has brought nothing more.

        A host that keeps many requests in flight sends them one by one: taking the
        first alone to a thread would make it the slowest batch of all.
        """
        self._gathering = False
        if self._under_way:
            return  # whoever is at it takes the rest along
        if seen < len(self._queued) < GATHERED_MAX:
            self._gathering = True
            asyncio.get_running_loop().call_soon(self._gather, len(self._queued))
        elif self._queued:
            self._go()

    def _overdue(self) -> None:
        self._timer = None
        if self._queued and self._under_way < HOPS_MAX:
            self._go()

    def _go(self) -> None:
        gathered, self._queued = self._queued, []
        self._is_deep = len(gathered) > 1 or len(gathered[0][0].requests) > 1
        self._under_way += 1

        def write_all() -> None:
            for batch, _ in gathered:
                batch.run()

        def returned(_: None, error: BaseException | None) -> None:
            self._under_way -= 1
            for _batch, wrote in gathered:
                wrote(error)
            if self._timer is not None and not self._under_way:
                self._timer.cancel()
                self._timer = None
            self._hop()

        self._threads.submit(write_all, returned)
