"""Received bytes to batches of host requests. No I/O; memory is handed out.

Ask `writable` for memory, read the socket into it, tell `received`, then call
`take` until it returns nothing. When that is because of a limit, `is_stopped` is
set and nothing may be received before a `take` has cleared it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common.nbd.limits import (
    OWN_PAYLOAD_BYTES_MIN,
    RECEIVE_BUFFER_BYTES,
    RECEIVE_TAIL_BYTES_MIN,
    NbdLimits,
)
from common.nbd.outcome import Ended
from common.nbd.protocol import (
    EXTENDED_REQUEST,
    EXTENDED_REQUEST_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    Command,
    CommandFlag,
    WireForm,
)
from common.nbd.receive_buffers import OwnPayload, ReceiveBuffer, ReceiveBuffers
from common.nbd.requests import BareRequest, Rules
from common.nbd.unusual_requests import UnusualRequests
from common.ports import Complete, HostRequest

# Plain ints: comparing with an enum's member is several times slower.
_WRITE: Final = int(Command.WRITE)
_BLOCK_STATUS: Final = int(Command.BLOCK_STATUS)
_FUA: Final = int(CommandFlag.FUA)
_NO_HOLE: Final = int(CommandFlag.NO_HOLE)
_DF: Final = int(CommandFlag.DF)
_FAST_ZERO: Final = int(CommandFlag.FAST_ZERO)
_NO_CONTEXTS: Final = ()


class RequestStream:
    """The requests of one connection, in the order in which they came.

    `reserve` is asked for memory before payload is to be held: for a batch, as many
    bytes as its READs and WRITEs have, and for a WRITE that is read into memory of
    its own. If it says no, `is_stopped` is set, and `take` must not be called again
    before the bytes have been granted. Whoever completes requests gives them back.
    """

    def __init__(
        self,
        rules: Rules,
        limits: NbdLimits,
        answer: Callable[[bytes], None],
        completed: Complete,
        reserve: Callable[[int], bool] = lambda _length_bytes: True,
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
        self.taken_count = 0
        """Requests taken in since the start, also refused ones."""
        self.received_bytes = 0
        """Bytes received since the start."""
        is_extended = rules.form == WireForm.EXTENDED
        header = EXTENDED_REQUEST if is_extended else REQUEST
        self._magic = EXTENDED_REQUEST_MAGIC if is_extended else REQUEST_MAGIC
        self._header_bytes = header.size
        self._unpack = header.unpack_from
        self._rules = rules
        self._unusual_requests = UnusualRequests(rules, limits, header.size)
        self._limits = limits
        self._answer = answer
        self._completed = completed
        self._reserve = reserve
        self._buffers = ReceiveBuffers(limits.receive_buffers_max, completed)
        first = self._buffers.take()
        assert first is not None
        self._buffer = first
        self._batch_buffer = first
        # Received and not yet taken: [start, end) of the buffer.
        self._start = 0
        self._end = 0
        self.missing_bytes = 0
        """So many are known to be missing before another `take` can bring anything."""
        # A batch that waits, and why nothing is taken after it.
        self._held: list[HostRequest] = []
        self._ended_after_held: Ended | None = None
        # A WRITE whose payload is read into memory of its own, once there is some.
        self._awaiting_memory = False
        self._filling: OwnPayload | None = None
        # A refused request whose payload is read away, and the answer it then gets.
        self._drain_left = 0
        self._drain_answer = b""

    @property
    def is_within_request(self) -> bool:
        """Tell whether a part of a request has arrived and the rest is missing."""
        return (
            self._end > self._start or self._drain_left > 0 or self._filling is not None
        )

    @property
    def holds_batch(self) -> bool:
        """Tell whether requests that were taken in wait for their turn."""
        return bool(self._held)

    def unread(self) -> bytes | None:
        """Return what was received and not taken, as it came.

        None where that can't be told: amid the payload of a refused request. Not to
        be asked while a batch is held, which is received and no longer here.
        """
        assert not self._held
        if self._drain_left:
            return None
        rest = bytes(self._buffer.memory[self._start : self._end])
        if self._filling is None:
            return rest
        return self._filling.as_received() + rest

    def writable(self) -> memoryview:
        """Return memory for the next read; never empty unless `is_stopped`."""
        if self._filling is not None:
            return self._filling.writable()
        return self._buffer.memory[self._end :]

    def received(self, length: int) -> None:
        """Count `length` bytes that now lie at the start of `writable`."""
        self.received_bytes += length
        self.missing_bytes -= length
        if self._filling is not None:
            self._filling.filled_bytes += length
        else:
            self._end += length

    def take(self, in_flight: int, in_flight_bytes: int) -> list[HostRequest]:
        """Return requests to submit at once, as many as the limits allow.

        An empty list means that bytes or room are missing, or the end. Answers
        that need no volume are given meanwhile.
        """
        self.missing_bytes = 0
        self.is_stopped = in_flight >= self._limits.requests_in_flight_max
        self.has_more = self.is_stopped
        if self.is_stopped or self.ended is not None:
            return []
        if self._held:
            return self._take_held()
        self.batch_bytes = 0
        if self._awaiting_memory:
            self._awaiting_memory = False
            self._fill_own(self._unfinished_write())
        if self._filling is not None:
            return self._take_filled(self._filling)
        batch: list[HostRequest] = []
        while self._drained():
            batch = self._parse(in_flight, in_flight_bytes)
            self._buffer.users += len(batch)
            self.batch_complete = self._buffer.complete
            self._batch_buffer = self._buffer
            if self.batch_bytes and not self._reserve(self.batch_bytes):
                return self.put_back(batch)
            if self._drain_left == 0:
                break
            if batch:
                self.has_more = True
                return batch
        if not (self.is_stopped or self.ended):
            self._make_room()
        self.has_more = self.is_stopped
        return batch

    def put_back(self, batch: list[HostRequest]) -> list[HostRequest]:
        """Keep a batch for the next `take`; nothing is parsed before. Return none."""
        self._held = batch
        self._ended_after_held, self.ended = self.ended, None
        self.is_stopped = self.has_more = True
        return []

    def abandon_buffer(self) -> None:
        """Never write again to the memory that the last batch's payloads lie in.

        For a volume of which nobody knows whether it still reads them: they stay
        for as long as it holds them.
        """
        self._buffers.forget(self._batch_buffer)
        if self._batch_buffer is self._buffer:
            self._move_to(self._buffers.take())

    def _take_held(self) -> list[HostRequest]:
        batch, self._held = self._held, []
        self.ended = self._ended_after_held
        # What the parser left undone, such as room for more, is done next.
        self.has_more = True
        return batch

    def _take_filled(self, filling: OwnPayload) -> list[HostRequest]:
        request = filling.request
        if filling.filled_bytes < request.length:
            self.missing_bytes = request.length - filling.filled_bytes
            return []
        self._filling = None
        self.taken_count += 1
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

    def _parse(  # noqa: C901 - no calls: it runs for every request
        self, in_flight: int, in_flight_bytes: int
    ) -> list[HostRequest]:
        memory, unpack, magic_wanted = self._buffer.memory, self._unpack, self._magic
        header_bytes, bare = self._header_bytes, BareRequest
        forbidden_flags, ceilings = self._rules.forbidden_flags, self._rules.ceilings
        size_bytes = self._rules.size_bytes
        may_fragment = self._rules.form >= WireForm.STRUCTURED
        start, end = self._start, self._end
        last = end - header_bytes
        room = self._limits.requests_in_flight_max - in_flight
        room_bytes = self._limits.bytes_in_flight_max - in_flight_bytes
        room_bytes_before = room_bytes
        batch: list[HostRequest] = []
        while start <= last and room:
            magic, flags, command, cookie, offset, length = unpack(memory, start)
            if magic != magic_wanted:
                self.ended = Ended("a request without its magic number", refused=True)
                break
            payload = start + header_bytes
            if (
                command > _BLOCK_STATUS
                or flags & forbidden_flags[command]
                or not 0 < length <= ceilings[command]
                or offset + length > size_bytes
            ):
                self._start = start
                unusual = self._unusual(flags, command, cookie, offset, length)
                if unusual is not None:
                    batch.append(unusual)
                    room -= 1
                if self._start == start or self.ended is not None or self._drain_left:
                    start = self._start
                    break
                start = self._start
                continue
            request = bare()
            if command <= _WRITE:
                # A lone request may be larger than all that may be in flight.
                if length > room_bytes and (in_flight or batch):
                    room = 0
                    break
                if command == _WRITE:
                    stop = payload + length
                    if stop > end:
                        break
                    request.data = memory[payload:stop]
                    request.sparse_ok = False
                    start = stop
                else:
                    request.data = None
                    request.sparse_ok = may_fragment and not flags & _DF
                    start = payload
                room_bytes -= length
                request.contexts = _NO_CONTEXTS
                request.cookie = cookie
            else:
                request.data = None
                request.sparse_ok = False
                start = payload
                if command == _BLOCK_STATUS:
                    rules = self._rules
                    rules.ask_status(request, flags, cookie, rules.context_ids)
                else:
                    request.contexts = _NO_CONTEXTS
                    request.cookie = cookie
            request.command = command
            request.offset = offset
            request.length = length
            if flags:
                request.fua = flags & _FUA != 0
                request.no_hole = flags & _NO_HOLE != 0
                request.fast = flags & _FAST_ZERO != 0
            else:
                request.fua = request.no_hole = request.fast = False
            request.error = 0
            batch.append(request)
            room -= 1
        self._start = start
        self.is_stopped = room == 0
        self.taken_count += len(batch)
        self.batch_bytes = room_bytes_before - room_bytes
        return batch

    def _unusual(
        self, flags: int, command: int, cookie: int, offset: int, length: int
    ) -> HostRequest | None:
        """Deal with the request at `start`; return it if it is to be run after all.

        `start` is moved past what of it was taken; it stays if the payload has not
        arrived.
        """
        following = self._buffer.memory[self._start + self._header_bytes : self._end]
        ruling = self._unusual_requests.rule(
            flags, command, cookie, offset, length, following
        )
        self.ended = ruling.ended
        self._start += ruling.taken_bytes
        if ruling.drained_bytes:
            self._drain_left = ruling.drained_bytes
            self._drain_answer = ruling.answer
        elif ruling.answer:
            self._answer(ruling.answer)
        if ruling.taken_bytes and ruling.request is None:
            self.taken_count += 1
        return ruling.request

    # Room for what comes next

    def _make_room(self) -> None:
        """See to it that `writable` can take the rest of the request at `start`."""
        buffer = self._buffer
        if self._start == self._end and buffer.users == 0:
            self._start = self._end = 0
            return
        if self._end - self._start < self._header_bytes:
            if RECEIVE_BUFFER_BYTES - self._end < RECEIVE_TAIL_BYTES_MIN:
                self._move_on()
            return
        write = self._unfinished_write()
        needed = self._header_bytes + write.length
        if self._start + needed <= RECEIVE_BUFFER_BYTES:
            self.missing_bytes = needed - (self._end - self._start)
            return
        if needed <= RECEIVE_BUFFER_BYTES:
            self._move_on()
        if needed > RECEIVE_BUFFER_BYTES or (
            self.is_stopped and write.length >= OWN_PAYLOAD_BYTES_MIN
        ):
            self.is_stopped = False
            self._fill(write)

    def _unfinished_write(self) -> HostRequest:
        """Return the request at `start`, whose header, but not payload, is whole.

        It is a WRITE, or a BLOCK_STATUS whose short payload chooses contexts.
        """
        _, flags, command, cookie, offset, length = self._unpack(
            self._buffer.memory, self._start
        )
        assert self._rules.payload_bytes(command, flags, length), (command, flags)
        fua = flags & _FUA != 0
        return HostRequest(command, offset, length, fua=fua, cookie=cookie)

    def _move_on(self) -> None:
        """Carry what is unfinished to the start of a buffer that nobody uses."""
        self._move_to(self._buffer if self._buffer.users == 0 else self._buffers.take())

    def _move_to(self, target: ReceiveBuffer | None) -> None:
        if target is None:
            self.is_stopped = True
            return
        rest = self._end - self._start
        target.memory[:rest] = self._buffer.memory[self._start : self._end]
        self._buffer = target
        self._start, self._end = 0, rest

    def _fill(self, write: HostRequest) -> None:
        """Go on reading a WRITE into memory of exactly its size, if there is any."""
        assert write.command == _WRITE, write.command
        if self._reserve(write.length):
            self._fill_own(write)
        else:
            self._awaiting_memory = True
            self.is_stopped = True

    def _fill_own(self, write: HostRequest) -> None:
        payload_start = self._start + self._header_bytes
        memory = self._buffer.memory
        header = bytes(memory[self._start : payload_start])
        self._filling = OwnPayload(write, header, memory[payload_start : self._end])
        self._start = self._end
