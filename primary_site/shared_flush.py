"""Group commit of fdatasync: many flushes and FUA writes, one call.

A flush is answered by an fdatasync *begun* after it was asked for, and so after
every write already replied to, over all connections (NBD proto.md, "Ordering of
messages and writes").
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

from common.errors import StorageError
from common.ports import File, Threads

Synced = Callable[[StorageError | None], None]


class SharedFlush:
    """One device's fdatasync; owned by the event loop."""

    def __init__(
        self, device: File, threads: Threads, on_failure: Callable[[StorageError], None]
    ) -> None:
        self._device = device
        self._threads = threads
        self._on_failure = on_failure
        self._failed: StorageError | None = None
        self._next: list[Synced] = []
        self._running = False

    def join(self, synced: Synced) -> None:
        """Call `synced(None)` after an fdatasync begun from now on has succeeded."""
        if self._failed is not None:
            synced(self._failed)
            return
        self._next.append(synced)
        if not self._running:
            self._start()

    async def done(self) -> None:
        """Return after an fdatasync begun from now on; raises `StorageError`."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def synced(error: StorageError | None) -> None:
            if ended.done():
                return
            if error is None:
                ended.set_result(None)
            else:
                ended.set_exception(error)

        self.join(synced)
        await ended

    def fail(self, error: StorageError) -> None:
        """Answer every later flush with this error, for ever."""
        if self._failed is None:
            self._failed = error

    def _start(self) -> None:
        waiting, self._next = self._next, []
        self._running = True
        self._threads.submit(
            self._device.datasync, lambda _, error: self._ended(waiting, error)
        )

    def _ended(self, waiting: list[Synced], error: BaseException | None) -> None:
        self._running = False
        if error is not None:
            if not isinstance(error, StorageError):  # a bug, yet nobody may hang
                error = StorageError(
                    repr(error), errno=errno.EIO, file=self._device.path
                )
            self.fail(error)
            self._on_failure(error)
        for synced in waiting:
            synced(self._failed)
        if self._next and not self._running:
            if self._failed is None:
                self._start()
            else:
                late, self._next = self._next, []
                for synced in late:
                    synced(self._failed)
