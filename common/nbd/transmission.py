"""Transmission: the path of every host request. Measure before changing it.

One socket read is parsed into one batch of requests, the batch goes to the volume
in one `submit`, and everything completed in one turn of the event loop is answered
with one `writelines`. There is no task, future or callback per request.

A connection ends in steps, each of which happens once:
1. No more requests are taken (DISC, end of stream, garbage, the server closing).
   What was received but not submitted is dropped: a client that reconnects sends
   it again, and an old write must not run after that.
2. What was submitted runs to its end and is answered while the socket lives.
3. The socket is closed; then, with nothing in flight, the volume is released.

A client that reconnects sends its unanswered writes again and goes on from there.
So that no write of its old connection lands on top of newer ones, a connection
takes no request while requests of an ended connection to the same export run.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from typing import Final

import structlog

from common.nbd import replies
from common.nbd.limits import NbdLimits
from common.nbd.negotiation import Agreed
from common.nbd.protocol import (
    CHUNK_MAGIC,
    OFFSET_DATA,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    ChunkFlag,
    ChunkType,
    Command,
)
from common.nbd.request_stream import RequestStream
from common.nbd.requests import Rules
from common.ports import Buffer, HostRequest, HostVolume

_log = structlog.get_logger(__name__)

# Plain ints: comparing with an enum's member is several times slower.
_READ: Final = int(Command.READ)
_WRITE: Final = int(Command.WRITE)
_BLOCK_STATUS: Final = int(Command.BLOCK_STATUS)
_DONE: Final = int(ChunkFlag.DONE)
_OFFSET_DATA: Final = int(ChunkType.OFFSET_DATA)
_OFFSET_BYTES: Final = 8
_PACK_DATA: Final = OFFSET_DATA.pack
_PACK_SIMPLE: Final = SIMPLE_REPLY.pack


class Transmission(asyncio.BufferedProtocol):
    """One connection to one opened volume, from the end of its handshake on.

    The caller makes it the protocol of a transport whose reading is paused, then
    calls `start`. `closed` is called once, right after the volume's release.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        volume: HostVolume,
        agreed: Agreed,
        limits: NbdLimits,
        closed: Callable[[Transmission], None],
        *,
        peer: str,
    ) -> None:
        self._transport = transport
        self._volume = volume
        self._closed = closed
        self._agreed = agreed
        self._structured = agreed.structured
        self._peer = peer
        self._write_buffer_bytes_max = limits.write_buffer_bytes_max
        self._loop = asyncio.get_running_loop()
        rules = Rules(
            size_bytes=volume.size_bytes,
            read_only=volume.read_only,
            structured=agreed.structured,
            has_context=agreed.allocation_context_id is not None,
            payload_bytes_max=limits.payload_bytes_max,
        )
        self._replies: list[Buffer] = []
        self._stream = RequestStream(rules, limits, self._answer, self._completed)
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._reading = False
        self._write_paused = False
        # Ended connections whose requests have to run to their end first.
        self._predecessors: set[Transmission] = set()
        self._in_turn = False
        self._turn_due = False
        self._ending = False
        self._lost = False
        self._released = False

    @property
    def export_name(self) -> str:
        return self._agreed.export_name

    @property
    def is_running_out(self) -> bool:
        """Tell whether it has ended while some of its requests still run."""
        return self._ending and self._in_flight > 0

    def notice_hangup(self) -> None:
        """End if the client is gone.

        A transport that is not reading, because of a limit, does not tell; the
        socket does, unless it is closed already.
        """
        if self._ending:
            return
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLRDHUP)
        if poll.poll(0):
            self.finish()

    def start_after(self, predecessors: set[Transmission]) -> None:
        """Take no request before `predecessor_closed` was called for each."""
        self._predecessors = predecessors

    def predecessor_closed(self, predecessor: Transmission) -> None:
        if predecessor in self._predecessors:
            self._predecessors.discard(predecessor)
            self._schedule_turn()

    def start(self, received: bytes) -> None:
        """Begin to read, after `received`, which came with the handshake's end."""
        self._transport.set_write_buffer_limits(self._write_buffer_bytes_max)
        memory = self._stream.writable()
        assert len(received) < len(memory)
        memory[: len(received)] = received
        self._stream.received(len(received))
        self._turn()

    def finish(self) -> None:
        """Take no more requests; close once those in flight are answered."""
        self._ending = True
        self._schedule_turn()

    def abort(self) -> None:
        """Close the socket now; what is in flight still runs to its end."""
        self._ending = True
        self._transport.abort()

    # What the transport calls

    def get_buffer(self, _size_hint: int) -> memoryview:
        return self._stream.writable()

    def buffer_updated(self, length: int) -> None:
        if not self._ending:
            self._stream.received(length)
            self._turn()

    def eof_received(self) -> bool:
        self.finish()
        # Stay open for replies: the client may have closed its half only.
        return True

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._schedule_turn()

    def connection_lost(self, _error: Exception | None) -> None:
        self._ending = True
        self._lost = True
        self._replies.clear()
        self._release_if_idle()

    # One turn: parse, submit, answer, choose whether to read on

    def _schedule_turn(self) -> None:
        if not (self._turn_due or self._in_turn or self._lost):
            self._turn_due = True
            self._loop.call_soon(self._run_due_turn)

    def _run_due_turn(self) -> None:
        self._turn_due = False
        if not self._lost:
            self._turn()

    def _turn(self) -> None:
        self._in_turn = True
        more = True
        while more:
            more = self._submit_next()
            if self._replies:
                answers, self._replies = self._replies, []
                if not self._transport.is_closing():
                    # May call pause_writing: the next round then takes nothing.
                    self._transport.writelines(answers)
        self._in_turn = False
        if self._ending:
            self._set_reading(wanted=False)
            if self._in_flight == 0:
                self._transport.close()
        else:
            self._set_reading(
                wanted=not (
                    self._stream.is_stopped or self._write_paused or self._predecessors
                )
            )

    def _submit_next(self) -> bool:
        """Take one batch and hand it over; tell whether there can be another."""
        if self._ending or self._write_paused or self._predecessors:
            return False
        stream = self._stream
        batch = stream.take(self._in_flight, self._in_flight_bytes)
        if batch:
            self._in_flight += len(batch)
            self._in_flight_bytes += stream.batch_bytes
            self._volume.submit(batch, stream.batch_complete)
        if stream.ended is not None:
            self._ending = True
            if stream.ended.refused:
                _log.warning(
                    "nbd_connection_refused",
                    peer=self._peer,
                    export=self._agreed.export_name,
                    reason=stream.ended.reason,
                )
        return bool(batch) and stream.has_more

    def _set_reading(self, *, wanted: bool) -> None:
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # Answers

    def _answer(self, reply: bytes) -> None:
        self._replies.append(reply)

    def _completed(self, requests: list[HostRequest]) -> None:
        self._in_flight -= len(requests)
        assert self._in_flight >= 0
        append = self._replies.append
        for request in requests:
            command = request.command
            if command <= _WRITE:
                self._in_flight_bytes -= request.length
            if request.error:
                append(self._failure(request))
            elif command == _READ:
                data, length = request.data, request.length
                assert len(data) == length
                if self._structured:
                    append(
                        _PACK_DATA(
                            CHUNK_MAGIC,
                            _DONE,
                            _OFFSET_DATA,
                            request.cookie,
                            length + _OFFSET_BYTES,
                            request.offset,
                        )
                    )
                else:
                    append(_PACK_SIMPLE(SIMPLE_REPLY_MAGIC, 0, request.cookie))
                append(data)
            elif command == _BLOCK_STATUS:
                append(self._extents(request))
            else:
                append(_PACK_SIMPLE(SIMPLE_REPLY_MAGIC, 0, request.cookie))
        if self._lost:
            self._replies.clear()
            self._release_if_idle()
        else:
            self._schedule_turn()

    def _failure(self, request: HostRequest) -> bytes:
        cookie = request.cookie
        if request.command == _BLOCK_STATUS:
            cookie, _ = cookie
        error = replies.nbd_error(request.error)
        text = os.strerror(request.error)
        return replies.failure(cookie, error, text, structured=self._structured)

    def _extents(self, request: HostRequest) -> bytes:
        cookie, only_one = request.cookie
        context_id = self._agreed.allocation_context_id
        assert context_id is not None
        return replies.block_status(
            cookie, context_id, request.data[0], request.length, only_one=only_one
        )

    def _release_if_idle(self) -> None:
        if self._in_flight == 0 and not self._released:
            self._released = True
            self._volume.release()
            self._closed(self)
