"""Worker threads of one device: a leaner `run_in_executor`.

A pool of its own for each device keeps one slow device from starving the rest.
Finished jobs are handed to the loop in one wake-up for as many as have
gathered: a wake-up costs as much as two or three small requests.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Done = Callable[[Any, BaseException | None], None]


class WorkerThreads:
    """The `Threads` port; create it on the running loop that it serves."""

    def __init__(self, name: str, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Done] | None] = (
            queue.SimpleQueue()
        )
        self._finished: deque[tuple[Done, Any, BaseException | None]] = deque()
        self._woken = False
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        assert not self._closed, "submit after close"
        self._jobs.put((job, done))

    async def run(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.submit(lambda: function(*args, **kwargs), done)
        return await future

    def close(self) -> None:
        """Let queued and running jobs end; their `done` still reaches the loop."""
        if self._closed:
            return
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._drain()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            try:
                self._finished.append((done, job(), None))
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                self._finished.append((done, None, error))
            del item, job, done  # let go of buffers before waiting for the next job
            if not self._woken:
                # A lost race only costs a second wake-up: `_drain` clears the flag
                # before it empties the queue, never after.
                self._woken = True
                try:
                    self._loop.call_soon_threadsafe(self._drain)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    return

    def _drain(self) -> None:
        self._woken = False
        while self._finished:
            done, result, error = self._finished.popleft()
            try:
                done(result, error)
            except BaseException:
                # One caller's bug is not to keep the others' results from them.
                self._loop.call_soon(self._drain)
                raise
