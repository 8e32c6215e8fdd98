"""Received bytes to batches of host requests. No I/O; memory is handed out.

Ask `writable` for memory, read the socket into it, tell `received`, then call
`take` until it returns nothing. When that is because of a limit, `is_stopped` is
set and nothing may be received before a `take` has cleared it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common.nbd import replies
from common.nbd.limits import (
    OWN_PAYLOAD_BYTES_MIN,
    RECEIVE_BUFFER_BYTES,
    RECEIVE_TAIL_BYTES_MIN,
    NbdLimits,
)
from common.nbd.negotiation import Ended
from common.nbd.protocol import REQUEST, REQUEST_MAGIC, Command, CommandFlag
from common.nbd.receive_buffers import ReceiveBuffers, uninitialised
from common.nbd.requests import Rules
from common.ports import BASE_ALLOCATION, Complete, HostRequest

# Plain ints: comparing with an enum's member is several times slower.
_READ: Final = int(Command.READ)
_WRITE: Final = int(Command.WRITE)
_DISC: Final = int(Command.DISC)
_FLUSH: Final = int(Command.FLUSH)
_BLOCK_STATUS: Final = int(Command.BLOCK_STATUS)
_FUA: Final = int(CommandFlag.FUA)
_NO_HOLE: Final = int(CommandFlag.NO_HOLE)
_REQ_ONE: Final = int(CommandFlag.REQ_ONE)
_HEADER_BYTES: Final = REQUEST.size
_UNPACK: Final = REQUEST.unpack_from


class RequestStream:
    """The requests of one connection, in the order in which they came."""

    def __init__(
        self,
        rules: Rules,
        limits: NbdLimits,
        answer: Callable[[bytes], None],
        completed: Complete,
    ) -> None:
        self.ended: Ended | None = None
        """Why nothing more is taken: DISC, or a client that broke the rules."""
        self.is_stopped = False
        """A limit is reached: take again once something has completed."""
        self.has_more = False
        """Whole requests may be left behind by the last `take`."""
        self.batch_bytes = 0
        """Payload of the READs and WRITEs that the last `take` returned."""
        self.batch_complete: Complete = completed
        """What the volume must call for the requests of the last `take`."""
        self._rules = rules
        self._limits = limits
        self._answer = answer
        self._completed = completed
        self._buffers = ReceiveBuffers(limits.receive_buffers_max, completed)
        first = self._buffers.take()
        assert first is not None
        self._buffer = first
        # Received and not yet taken: [start, end) of the buffer.
        self._start = 0
        self._end = 0
        # A WRITE whose payload is read into a buffer of its own.
        self._filling: HostRequest | None = None
        self._filled = 0
        # A refused WRITE whose payload is read away, and the answer it then gets.
        self._drain_left = 0
        self._drain_answer = b""

    def writable(self) -> memoryview:
        """Return memory for the next read; never empty unless `is_stopped`."""
        filling = self._filling
        if filling is not None:
            payload: memoryview = filling.data
            return payload[self._filled :]
        return self._buffer.memory[self._end :]

    def received(self, length: int) -> None:
        """Count `length` bytes that now lie at the start of `writable`."""
        if self._filling is not None:
            self._filled += length
        else:
            self._end += length

    def take(self, in_flight: int, in_flight_bytes: int) -> list[HostRequest]:
        """Return requests to submit at once, as many as the limits allow.

        An empty list means that bytes or room are missing, or the end. Answers
        that need no volume are given meanwhile.
        """
        self.is_stopped = in_flight >= self._limits.requests_in_flight_max
        self.has_more = self.is_stopped
        self.batch_bytes = 0
        if self.is_stopped or self.ended is not None:
            return []
        if self._filling is not None:
            return self._take_filled(self._filling)
        batch: list[HostRequest] = []
        while self._drained():
            batch = self._parse(in_flight, in_flight_bytes)
            self._buffer.users += len(batch)
            self.batch_complete = self._buffer.complete
            if self._drain_left == 0:
                break
            if batch:
                self.has_more = True
                return batch
        if not (self.is_stopped or self.ended):
            self._make_room()
        self.has_more = self.is_stopped
        return batch

    def _take_filled(self, request: HostRequest) -> list[HostRequest]:
        if self._filled < request.length:
            return []
        self._filling = None
        self.batch_bytes = request.length
        self.batch_complete = self._completed
        self._make_room()
        self.has_more = self.is_stopped
        return [request]

    def _drained(self) -> bool:
        """Read on through a refused payload; tell whether its end is reached."""
        if self._drain_left:
            taken = min(self._drain_left, self._end - self._start)
            self._start += taken
            self._drain_left -= taken
            if self._drain_left == 0:
                self._answer(self._drain_answer)
        return self._drain_left == 0

    def _parse(  # noqa: C901 - one loop without calls: it runs for every request
        self, in_flight: int, in_flight_bytes: int
    ) -> list[HostRequest]:
        memory = self._buffer.memory
        start, end = self._start, self._end
        forbidden_flags, ceilings = self._rules.forbidden_flags, self._rules.ceilings
        size_bytes = self._rules.size_bytes
        room = self._limits.requests_in_flight_max - in_flight
        room_bytes = self._limits.bytes_in_flight_max - in_flight_bytes
        room_bytes_before = room_bytes
        batch: list[HostRequest] = []
        while room and end - start >= _HEADER_BYTES:
            magic, flags, command, cookie, offset, length = _UNPACK(memory, start)
            if magic != REQUEST_MAGIC:
                self.ended = Ended("a request without its magic number", refused=True)
                break
            payload = start + _HEADER_BYTES
            if (
                command >= Rules.COMMAND_COUNT
                or flags & forbidden_flags[command]
                or not 0 < length <= ceilings[command]
                or offset + length > size_bytes
            ):
                start = payload
                if self._is_runnable(flags, command, cookie, offset, length):
                    batch.append(HostRequest(command, 0, 0, cookie=cookie))
                    room -= 1
                elif self.ended is not None or self._drain_left:
                    break
                continue
            data = None
            stop = payload
            if command <= _WRITE:
                # A lone request may be larger than all that may be in flight.
                if length > room_bytes and (in_flight or batch):
                    room = 0
                    break
                if command == _WRITE:
                    stop += length
                    if stop > end:
                        break
                    data = memory[payload:stop]
                room_bytes -= length
            start = stop
            room -= 1
            request = HostRequest(
                command,
                offset,
                length,
                data,
                fua=flags & _FUA != 0,
                no_hole=flags & _NO_HOLE != 0,
                cookie=cookie,
            )
            if command == _BLOCK_STATUS:
                request.cookie = (cookie, flags & _REQ_ONE != 0)
                request.contexts = (BASE_ALLOCATION,)
            batch.append(request)
        self._start = start
        self.is_stopped = room == 0
        self.batch_bytes = room_bytes_before - room_bytes
        return batch

    def _is_runnable(
        self, flags: int, command: int, cookie: int, offset: int, length: int
    ) -> bool:
        """Deal with a request outside the plain rules; True for a FLUSH to run."""
        if command == _DISC:
            self.ended = Ended("the client disconnected", refused=False)
            return False
        if command == _WRITE and length > self._limits.payload_bytes_drained_max:
            self.ended = Ended(f"a WRITE of {length} bytes", refused=True)
            return False
        structured = self._rules.structured
        fault = self._rules.fault(command, flags, offset, length)
        if fault is None:
            if command == _FLUSH:
                return True
            assert length == 0, (command, flags, offset, length)
            empty_read = structured and command == _READ
            self._answer(
                replies.empty_read(cookie) if empty_read else replies.success(cookie)
            )
            return False
        answer = replies.failure(cookie, fault.error, fault.text, structured=structured)
        if command == _WRITE and length:
            # Its payload is on the way whatever we think of it.
            self._drain_left = length
            self._drain_answer = answer
        else:
            self._answer(answer)
        return False

    # Room for what comes next

    def _make_room(self) -> None:
        """See to it that `writable` can take the rest of the request at `start`."""
        buffer = self._buffer
        if self._start == self._end and buffer.users == 0:
            self._start = self._end = 0
            return
        write = self._unfinished_write()
        if write is None:
            if RECEIVE_BUFFER_BYTES - self._end < RECEIVE_TAIL_BYTES_MIN:
                self._move_on()
            return
        needed = _HEADER_BYTES + write.length
        if self._start + needed <= RECEIVE_BUFFER_BYTES:
            return
        if needed <= RECEIVE_BUFFER_BYTES:
            self._move_on()
        if needed > RECEIVE_BUFFER_BYTES or (
            self.is_stopped and write.length >= OWN_PAYLOAD_BYTES_MIN
        ):
            self.is_stopped = False
            self._fill(write)

    def _unfinished_write(self) -> HostRequest | None:
        """Return the WRITE at `start` whose header, but not payload, is whole."""
        if self._end - self._start < _HEADER_BYTES:
            return None
        _, flags, command, cookie, offset, length = _UNPACK(
            self._buffer.memory, self._start
        )
        assert command == _WRITE, command
        fua = flags & _FUA != 0
        return HostRequest(command, offset, length, fua=fua, cookie=cookie)

    def _move_on(self) -> None:
        """Carry what is unfinished to the start of a buffer that nobody uses."""
        target = self._buffer if self._buffer.users == 0 else self._buffers.take()
        if target is None:
            self.is_stopped = True
            return
        rest = self._end - self._start
        target.memory[:rest] = self._buffer.memory[self._start : self._end]
        self._buffer = target
        self._start, self._end = 0, rest

    def _fill(self, write: HostRequest) -> None:
        """Go on reading a WRITE into memory of exactly its size."""
        payload = self._buffer.memory[self._start + _HEADER_BYTES : self._end]
        write.data = uninitialised(write.length)
        write.data[: len(payload)] = payload
        self._filling = write
        self._filled = len(payload)
        self._start = self._end
