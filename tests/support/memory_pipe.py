"""A connection in memory: a `ByteStream` at each end, cut as a test wants it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from common.errors import ConnectionLostError
from common.ports import Buffer

PATIENCE_SECONDS = 30.0


class Pipe:
    """One end of a connection in memory; the other reads in pieces of a size."""

    def __init__(self, piece_bytes: int) -> None:
        self.peer = "pipe:1"
        self.other = self
        self.written = bytearray()
        self.aborted = False
        self.closed = False
        self._piece_bytes = piece_bytes
        self.chunks: deque[bytes] = deque()
        self._ended = False
        self._changed = asyncio.Event()

    @classmethod
    def pair(cls, piece_bytes: int) -> tuple[Pipe, Pipe]:
        near, far = cls(piece_bytes), cls(piece_bytes)
        near.other, far.other = far, near
        return near, far

    async def read(self, limit_bytes: int) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.chunks and not self._ended:
                self._changed.clear()
                await self._changed.wait()
        if not self.chunks:
            return b""
        chunk = self.chunks.popleft()
        taken = min(limit_bytes, self._piece_bytes, len(chunk))
        if taken < len(chunk):
            self.chunks.appendleft(chunk[taken:])
        return chunk[:taken]

    async def write(self, buffers: Sequence[Buffer]) -> None:
        if self.closed or self.aborted:
            raise ConnectionLostError("closed")
        data = b"".join(bytes(each) for each in buffers)
        self.written += data
        self.other.arrived(data)

    def arrived(self, data: bytes) -> None:
        self.chunks.append(data)
        self._changed.set()

    def _end(self) -> None:
        self._ended = True
        self._changed.set()

    async def close(self) -> None:
        self.closed = True
        self._end()
        self.other._end()

    def unacknowledged_bytes(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True
        self._end()
        self.other._end()
