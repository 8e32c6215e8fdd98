"""A volume of a test copy, as hosts write and read it over NBD.

Changes go one after the other, in the order in which they came, as many in one hop to
a thread as have gathered; reads go beside them. A FLUSH, or FUA, is an fdatasync of
the overlay: a disk that fails is heard of. What it makes durable ends with the daemon
all the same, as the whole test copy does.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

from common.errors import FarshoreError, StorageError
from common.ports import BASE_ALLOCATION, Complete, HostCommand, HostRequest, Threads
from common.storage.extents import DATA, SPARSE_READ_BYTES_MIN, Extents
from remote_site.test_copy_overlay import Overlay

_CHANGES = frozenset(
    {
        HostCommand.WRITE,
        HostCommand.TRIM,
        HostCommand.WRITE_ZEROES,
        HostCommand.FLUSH,
    }
)


class OverlayVolume:
    """A `HostVolume` that several connections share; all methods are the loop's."""

    contexts: tuple[str, ...] = (BASE_ALLOCATION,)

    def __init__(self, overlay: Overlay, description: str, threads: Threads) -> None:
        self.loop = asyncio.get_running_loop()
        self.size_bytes = overlay.geometry.size_bytes
        self.read_only = False
        self.description = description
        self.preferred_block_bytes = overlay.geometry.track_bytes
        self.fast_zero = overlay.zeroes_fast(0, self.size_bytes, punch=True)
        self.overlay = overlay
        self.openings = 0
        self._threads = threads
        self._waiting: list[tuple[list[HostRequest], Complete]] = []
        self._is_changing = False
        self._answered_version = 0
        """Of the overlay: the newest change of which a host may know."""
        self._in_flight = 0
        self._ended: asyncio.Future[None] | None = None

    def release(self) -> None:
        """A connection ended; the test copy lives on."""
        self.openings -= 1

    async def end(self) -> None:
        """Take no more requests, and wait until nothing of those taken runs."""
        if self._ended is None:
            self._ended = self.loop.create_future()
            self._note_idle()
        await asyncio.shield(self._ended)

    def submit(self, requests: list[HostRequest], complete: Complete) -> None:
        if self._ended is not None:
            for request in requests:
                request.error = errno.ESHUTDOWN
            complete(requests)
            return
        changes = [r for r in requests if r.command in _CHANGES]
        if changes:
            self._waiting.append((changes, complete))
            self._in_flight += 1
            if not self._is_changing:
                self._change()
        for request in requests:
            if request.command == HostCommand.CACHE:
                complete([request])
            elif request.command not in _CHANGES:
                self._look(request, complete)

    # -- changes -----------------------------------------------------------------------

    def _change(self) -> None:
        """Hand all that waits to a thread."""
        taken, self._waiting = self._waiting, []
        self._is_changing = True

        def job() -> None:
            self._run([request for requests, _ in taken for request in requests])

        def done(_: None, error: BaseException | None) -> None:
            self._is_changing = False
            self._answered_version = self.overlay.version
            if self._waiting:
                self._change()
            self._in_flight -= len(taken)
            for requests, complete in taken:
                if error is not None:
                    for request in requests:
                        request.error = errno.EIO
                complete(requests)
            self._note_idle()

        self._threads.submit(job, done)

    def _run(self, requests: list[HostRequest]) -> None:
        """In a thread: carry out the changes in order, then what has to be synced."""
        for request in requests:
            _guarded(request, self._apply)
        synced = [
            r
            for r in requests
            if not r.error and (r.fua or r.command == HostCommand.FLUSH)
        ]
        if synced:
            _guarded(synced[0], lambda _: self.overlay.datasync())
            for request in synced[1:]:
                request.error = synced[0].error

    def _apply(self, request: HostRequest) -> None:
        overlay, offset, length = self.overlay, request.offset, request.length
        if request.command == HostCommand.FLUSH or not length:
            return
        if request.command == HostCommand.WRITE:
            overlay.write(offset, request.data)
            return
        if request.command == HostCommand.TRIM:
            overlay.trim(offset, length)
            return
        punch = not request.no_hole
        if request.fast and not overlay.zeroes_fast(offset, length, punch=punch):
            request.error = errno.ENOTSUP
            return
        overlay.zero(offset, length, punch=punch)

    # -- reads -------------------------------------------------------------------------

    def _look(self, request: HostRequest, complete: Complete) -> None:
        self._in_flight += 1

        def job() -> tuple[int, object]:
            version = self.overlay.version
            found: list[object] = []
            _guarded(request, lambda r: found.append(self._answer(r)))
            return version, found[0] if found else None

        def done(found: tuple[int, object] | None, _: BaseException | None) -> None:
            self._in_flight -= 1
            if found is None:
                request.error = errno.EIO
            elif not request.error:
                version, request.data = found
                if request.command == HostCommand.BLOCK_STATUS:
                    self._outdate(request, version)
            complete([request])
            self._note_idle()

        self._threads.submit(job, done)

    def _answer(self, request: HostRequest) -> object:
        offset, length = request.offset, request.length
        if request.command == HostCommand.BLOCK_STATUS:
            assert request.contexts == (BASE_ALLOCATION,)
            return [self.overlay.status(offset, length)]
        assert request.command == HostCommand.READ, request.command
        if request.sparse_ok and length >= SPARSE_READ_BYTES_MIN:
            return self.overlay.read_runs(offset, length)
        return self.overlay.read(offset, length)

    def _outdate(self, request: HostRequest, version: int) -> None:
        """Say nothing of holes that was found before a change that is answered.

        Who has the reply to a write, and then gets that of a look begun before it,
        takes it for the newer one; that all is data is never wrong.
        """
        if version < self._answered_version:
            told: list[Extents] = request.data
            request.data = [[(sum(size for size, _ in told[0]), DATA)]]

    def _note_idle(self) -> None:
        ended = self._ended
        if ended is not None and not self._in_flight and not ended.done():
            ended.set_result(None)


def _guarded(request: HostRequest, job: Callable[[HostRequest], None]) -> None:
    """Run a job for a request; what goes wrong is the request's error alone."""
    try:
        job(request)
    except StorageError as error:
        request.error = error.errno
    except FarshoreError:
        request.error = errno.EIO
