"""Memory that a socket is read into and that WRITE payloads are views of."""

from __future__ import annotations

import numpy as np

from common.nbd.limits import RECEIVE_BUFFER_BYTES
from common.ports import Complete, HostRequest


def uninitialised(length_bytes: int) -> memoryview:
    """Return fresh writable memory that is not cleared first.

    Clearing it, as `bytearray` does, would touch all of it on the event loop
    before the first byte arrives. Whoever takes it must fill it before it is read.
    """
    return np.empty(length_bytes, dtype=np.uint8).data


class ReceiveBuffer:
    """One buffer and how many requests in flight may still look into it."""

    __slots__ = ("_completed", "memory", "users")

    def __init__(self, completed: Complete) -> None:
        self.memory = uninitialised(RECEIVE_BUFFER_BYTES)
        self.users = 0
        self._completed = completed

    def complete(self, requests: list[HostRequest]) -> None:
        """Take back requests whose payloads lie here, then pass them on.

        It is the `complete` of every batch parsed out of this buffer, so that no
        request needs to name its buffer.
        """
        self.users -= len(requests)
        assert self.users >= 0
        self._completed(requests)


class ReceiveBuffers:
    """The buffers of one connection: at most `count_max`, reused when unused.

    A volume may look at a payload until it completes the request (see
    `HostRequest`); a buffer is given out again only when all of its requests
    have been completed.
    """

    def __init__(self, count_max: int, completed: Complete) -> None:
        self._count_max = count_max
        self._completed = completed
        self._all: list[ReceiveBuffer] = []

    def take(self) -> ReceiveBuffer | None:
        """Return a buffer that nothing looks into, or None: all are in use."""
        for buffer in self._all:
            if buffer.users == 0:
                return buffer
        if len(self._all) == self._count_max:
            return None
        buffer = ReceiveBuffer(self._completed)
        self._all.append(buffer)
        return buffer

    def forget(self, buffer: ReceiveBuffer) -> None:
        """Give a buffer out no more; it goes when nothing looks into it."""
        if buffer in self._all:
            self._all.remove(buffer)


class OwnPayload:
    """A WRITE whose payload goes on into memory of exactly its size."""

    __slots__ = ("_header", "filled_bytes", "request")

    def __init__(self, request: HostRequest, header: bytes, begun: memoryview) -> None:
        """`header` and `begun`: as they were received, the payload's beginning."""
        self.request = request
        self.filled_bytes = len(begun)
        """How much of the payload has been received."""
        self._header = header
        request.data = uninitialised(request.length)
        request.data[: len(begun)] = begun

    def writable(self) -> memoryview:
        """Return memory for the rest."""
        payload: memoryview = self.request.data
        return payload[self.filled_bytes :]

    def as_received(self) -> bytes:
        """Return all of it that has come, as it came."""
        return self._header + bytes(self.request.data[: self.filled_bytes])
