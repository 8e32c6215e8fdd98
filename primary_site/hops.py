"""Hops: how batches of host writes get to a thread and back.

A hop costs as much as two or three small requests, so as many as have gathered
share one. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from common.ports import Clock, Threads
from primary_site.gate import Gate
from primary_site.preserving import HostWriteBatch
from primary_site.promptness import Promptness

HOPS_MAX = 6
"""Threads of a device that may write at once; its others read and sync."""

GATHERED_MAX = 32
"""Batches gathered for one hop: bounds how long the first of them waits."""

PATIENCE_SECONDS = 0.002
"""A hop from memory to the page cache ends well within it; a longer one waits for
the device, and more of them at once are then worth their cost."""

T = TypeVar("T")


class WriteHops(Generic[T]):
    """Takes batches of one volume to its threads, in the order they came.

    `begin` enters the gate, marks and claims, and returns what the thread does, or
    None; `wrote` is called once that has returned. What only waits for a hop has
    not entered: a cut waits for the hops under way and for nothing else.
    """

    def __init__(
        self,
        threads: Threads,
        gate: Gate,
        begin: Callable[[T], HostWriteBatch | None],
        wrote: Callable[[T, BaseException | None], None],
        promptness: Promptness,
        clock: Clock,
    ) -> None:
        self._threads = threads
        self._gate = gate
        self._begin = begin
        self._wrote = wrote
        self._promptness = promptness
        self._monotonic = clock.monotonic
        self._queued: list[T] = []
        self._held = False
        self._started: list[float] = []
        """When each hop under way began, ascending."""
        self._is_deep = False
        """The last hop carried several batches: the host keeps many in flight."""
        self._gathering = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def overdue(self) -> bool:
        """Tell whether a thread has been writing for so long that it surely waits."""
        started = self._started
        return bool(started) and self._monotonic() - started[0] > PATIENCE_SECONDS

    def submit(self, batch: T) -> None:
        """Take the batch along with the next hop."""
        self._queued.append(batch)
        self._hop()

    def _hop(self) -> None:
        """Take everything queued to one thread, unless one is at it already.

        What arrives meanwhile gathers for the next hop: the busier the volume, the
        fewer hops a request costs. A thread that takes long (it waits for the
        device) is not waited for: another takes what has gathered.
        """
        if not self._queued or len(self._started) == HOPS_MAX or self._gathering:
            return
        if self._started:
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
        if self._started:
            return  # whoever is at it takes the rest along
        if seen < len(self._queued) < GATHERED_MAX:
            self._gathering = True
            asyncio.get_running_loop().call_soon(self._gather, len(self._queued))
        elif self._queued:
            self._go()

    def _overdue(self) -> None:
        self._timer = None
        if self._queued and len(self._started) < HOPS_MAX:
            self._go()

    def _go(self) -> None:
        if self._gate.held:
            if not self._held:
                self._held = True
                self._gate.wait(self._released)
            return
        queued, self._queued = self._queued, []
        begun = [(each, work) for each in queued if (work := self._begin(each))]
        if not begun:
            return
        self._is_deep = len(begun) > 1 or len(begun[0][1].requests) > 1

        went = self._monotonic()
        self._started.append(went)

        def write_all() -> float:
            started = self._monotonic()
            for _, work in begun:
                work.run()
            return self._monotonic() - started

        def returned(seconds: float | None, error: BaseException | None) -> None:
            self._started.remove(went)
            if seconds is not None:
                writes = sum(len(work.requests) for _, work in begun)
                self._promptness.took_in_thread(seconds, writes)
            for batch, _work in begun:
                self._wrote(batch, error)
            if self._timer is not None and not self._started:
                self._timer.cancel()
                self._timer = None
            self._hop()

        self._threads.submit(write_all, returned)

    def _released(self) -> None:
        self._held = False
        self._hop()
