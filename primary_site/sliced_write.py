"""A long write, taken in slices so that neither a cut nor other I/O waits for it."""

from __future__ import annotations

from collections.abc import Callable

from common.ports import Complete, HostRequest


class SlicedWrite:
    """One write in slices, one after the other; it ends with the first error."""

    __slots__ = ("_complete", "_done", "_request", "_slice_bytes", "_start")

    def __init__(
        self,
        request: HostRequest,
        complete: Complete,
        slice_bytes: Callable[[int], int],
        start: Callable[[list[HostRequest], Complete], None],
    ) -> None:
        """`slice_bytes`: of the slice at an offset, at most; `start` starts one."""
        self._request = request
        self._complete = complete
        self._slice_bytes = slice_bytes
        self._start = start
        self._done = 0

    def next(self, finished: list[HostRequest]) -> None:
        """Go on after a slice, with none before the first."""
        request = self._request
        if finished:
            request.error = finished[0].error
        if request.error or self._done == request.length:
            self._complete([request])
            return
        offset = request.offset + self._done
        length = min(request.length - self._done, self._slice_bytes(offset))
        data = request.data
        if data is not None:
            data = memoryview(data)[self._done : self._done + length]
        part = HostRequest(
            request.command, offset, length, data, no_hole=request.no_hole
        )
        self._done += length
        self._start([part], self.next)
