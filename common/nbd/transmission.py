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
A connection that is to outlive the daemon is given away instead, see `keep`.

Whether it may take requests at all, where other connections to its export have
ended or begun, is decided by `common.nbd.precedence`.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final

import structlog

from common.nbd.answers import Answers
from common.nbd.budget import MemoryBudget
from common.nbd.departure import Departure
from common.nbd.kept_connection import KeptConnection
from common.nbd.kept_state import KeptState
from common.nbd.limits import NbdLimits
from common.nbd.liveness import Ask, ask_socket, read_away
from common.nbd.outcome import Agreed
from common.nbd.polling import Polling
from common.nbd.precedence import Precedence
from common.nbd.progress import Position, ProgressWatch, Underway
from common.nbd.request_stream import RequestStream
from common.nbd.requests import Rules
from common.nbd.sending import Sending
from common.ports import HostRequest, HostVolume

_log = structlog.get_logger(__name__)

_UNSENT_MARK_BYTES: Final = 1
"""A transport says that its buffer is empty again if it has said that it was not:
above this mark."""
_ANSWERED: Final = object()
"""The cookie of a request that was answered although the volume never did."""


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
        budget: MemoryBudget | None = None,
        polling: Polling | None = None,
        ask: Ask = ask_socket,
    ) -> None:
        """`ask` is how to learn whether the client is there; see `liveness`."""
        self._transport = transport
        self._volume = volume
        self._closed = closed
        self._agreed = agreed
        self._peer = peer
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._rules = rules = Rules(
            size_bytes=volume.size_bytes,
            read_only=volume.read_only,
            form=agreed.form,
            contexts=agreed.contexts,
            fast_zero=volume.fast_zero and not volume.read_only,
            payload_bytes_max=limits.payload_bytes_max,
        )
        if budget is None:
            budget = MemoryBudget(limits.daemon_bytes_in_flight_max, 1)
        self._polling = polling or Polling(self._loop.call_soon)
        self._share = budget.share(self._loop, self._schedule_another_turn)
        self._answers = Answers(agreed.form, volume.size_bytes)
        self._stream = RequestStream(
            rules, limits, self._answers.add, self._completed, self._share.take
        )
        self._progress = ProgressWatch(
            self._loop,
            limits.progress_seconds,
            limits.reply_seconds,
            self._underway,
            self._stuck,
        )
        self.in_flight = 0
        self._in_flight_bytes = 0
        self._reading = False
        # What completed while the volume's `submit` runs, should that raise.
        self._submitting = False
        self._completed_meanwhile: list[list[HostRequest]] = []
        self._has_abandoned = False
        self._precedence = Precedence(
            self, transport, agreed.form, ask, read_only=volume.read_only
        )
        self._sending = Sending(transport, self._answers, self._precedence, self._share)
        self._in_turn = False
        self._turn_due = False
        # Received by the daemon before, and not taken by the stream yet.
        self._early = memoryview(b"")
        self._departure: Departure | None = None
        self.is_ending = False
        self._lost = False
        self._released = False

    @property
    def export_name(self) -> str:
        return self._agreed.export_name

    def give_way_to(self, newer: Transmission) -> None:
        """Let a connection to the same export, which begins now, come first."""
        self._precedence.give_way_to(newer._precedence)

    def start(self, received: bytes, *, is_doubted: bool = False) -> None:
        """Begin to read, after `received`, which came before.

        `is_doubted`: a connection that is older, and may have ended, see `precedence`.
        """
        if self._departure is None:
            self._transport.set_write_buffer_limits(_UNSENT_MARK_BYTES)
        if is_doubted:
            self._precedence.doubt_again()
        self._early = memoryview(received)
        self._turn()

    def keep(self, kept: Callable[[KeptConnection], None]) -> None:
        """Take no more requests; give the connection away, open, instead of closing it.

        First all that was taken in is answered, the answers are sent, and a flush of
        the volume covers them: what the client was told holds whatever happens to the
        daemon, or its host, until the next takes over. What was received beyond that
        goes along. A connection that ends meanwhile ends as ever.
        """
        if self._transport.is_closing():
            return
        self._departure = Departure(kept, self._flushed_last)
        self._set_reading(wanted=False)
        # Of the last byte that is sent we hear, too.
        self._transport.set_write_buffer_limits(0)
        self.schedule_turn()

    def finish(self) -> None:
        """Take no more requests; close once those in flight are answered."""
        self.is_ending = True
        self.schedule_turn()

    def abort(self) -> None:
        """Close the socket now; what is in flight still runs to its end."""
        self.is_ending = True
        self._transport.abort()

    # What the transport calls

    def get_buffer(self, _size_hint: int) -> memoryview:
        return self._stream.writable()

    def buffer_updated(self, length: int) -> None:
        if not self.is_ending:
            self._polling.arrived()
            self._stream.received(length)
            # A long payload comes in many pieces: only the last is worth a turn.
            if self._stream.missing_bytes <= 0:
                self._turn()

    def eof_received(self) -> bool:
        self.finish()
        # Stay open for replies: the client may have closed its half only.
        return True

    def pause_writing(self) -> None:
        """Note that the last `writelines` could not be sent whole."""
        self._sending.note_unsent()
        self._progress.arm()

    def resume_writing(self) -> None:
        """Note that all has been sent."""
        self._sending.note_sent()
        self.schedule_turn()

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_ending = True
        self._lost = True
        self._progress.stop()
        self._precedence.stop()
        self._share.stop_waiting()
        self._sending.drop()
        self._release_if_idle()

    # One turn: parse, submit, answer, choose whether to read on

    def schedule_turn(self) -> None:
        """See what may go on, once the loop has done what is before it."""
        if not (self._turn_due or self._in_turn or self._lost):
            self._turn_due = True
            self._loop.call_soon(self._run_due_turn)

    def _schedule_another_turn(self) -> None:
        # Also within a turn: what the turn did not get, it does not ask for again.
        if not (self._turn_due or self._lost):
            self._turn_due = True
            self._loop.call_soon(self._run_due_turn)

    def _run_due_turn(self) -> None:
        self._turn_due = False
        if not self._lost:
            self._turn()

    def _turn(self) -> None:
        self._in_turn = True
        more, answered = True, False
        while more:
            more = self._submit_next()
            if self._early and not more:
                more = self._feed_early()
            if self._answers.pending:
                self._sending.send()
                answered = True
        self._in_turn = False
        if self._precedence.followers and self.in_flight == 0:
            self._precedence.let_followers_go()
        if self.is_ending:
            self._set_reading(wanted=False)
            if self.in_flight == 0:
                self._close()
        elif self._departure is not None:
            self._keep_if_quiet(self._departure)
        else:
            self._set_reading(wanted=not (self._stream.is_stopped or self._must_wait()))
            if self._stream.is_within_request:
                self._progress.arm()
            elif answered and not self.in_flight:
                self._polling.answered()

    def _feed_early(self) -> bool:
        """Receive more of what came before; tell whether any was taken."""
        if self.is_ending or self._departure is not None:
            return False
        if self._stream.is_stopped or self._must_wait():
            return False
        memory = self._stream.writable()
        length = min(len(memory), len(self._early))
        memory[:length] = self._early[:length]
        # An empty view would hold on to all that was received.
        self._early = self._early[length:] or memoryview(b"")
        self._stream.received(length)
        return True

    def _keep_if_quiet(self, departure: Departure) -> None:
        """Give the connection away once nobody is owed anything; see `keep`."""
        stream, transport = self._stream, self._transport
        if self.in_flight or stream.holds_batch or transport.is_closing():
            return
        if transport.get_write_buffer_size():
            return
        if not departure.is_flushed:
            self.in_flight += 1
            departure.flush(self._volume)
            return
        self.is_ending = True
        unread = stream.unread()
        if unread is None or departure.has_failed:
            self._close()
            return
        assert not self._precedence.begun_bytes, "a reply was begun and is not owed"
        state = KeptState(
            self._agreed,
            self._rules.size_bytes,
            self._rules.fast_zero,
            self._precedence.doubt is not None,
            unread + self._early,
        )
        departure.go(transport, state, self._peer)

    def _flushed_last(self) -> None:
        self.in_flight -= 1
        if self._lost:
            self._release_if_idle()
        else:
            self._schedule_another_turn()

    def _close(self) -> None:
        if not self._transport.is_closing():
            read_away(self._transport.get_extra_info("socket"))
            self._transport.close()

    def _must_wait(self) -> bool:
        """Tell whether no request may be taken now, whatever its kind."""
        return self._precedence.waits or (
            self._share.is_waiting
            or (
                self._sending.is_unsent
                and self._transport.get_write_buffer_size()
                > self._limits.write_buffer_bytes_max
            )
        )

    def _submit_next(self) -> bool:
        """Take one batch and hand it over; tell whether there can be another."""
        if self.is_ending or self._must_wait():
            return False
        stream = self._stream
        if self._departure is not None and not stream.holds_batch:
            return False
        batch = stream.take(self.in_flight, self._in_flight_bytes)
        if batch:
            if self._precedence.doubt is not None:
                stream.put_back(batch)
                self._precedence.wait_for_proof()
                return False
            self.in_flight += len(batch)
            self._in_flight_bytes += stream.batch_bytes
            self._submitting = True
            try:
                self._volume.submit(batch, stream.batch_complete)
            except Exception:  # noqa: BLE001 - the host must be answered anyhow
                self._submitting = False
                self._answer_for_volume(batch)
            self._submitting = False
            self._completed_meanwhile.clear()
        if stream.ended is not None:
            self.is_ending = True
            if stream.ended.refused:
                _log.warning(
                    "nbd_connection_refused",
                    peer=self._peer,
                    export=self._agreed.export_name,
                    reason=stream.ended.reason,
                )
        return bool(batch) and stream.has_more

    def _answer_for_volume(self, batch: list[HostRequest]) -> None:
        """Fail what a volume that raised has not completed; it must not raise.

        It may complete some of it all the same, later, and until then look at the
        payloads: both are seen to.
        """
        _log.exception(
            "nbd_submit_raised", peer=self._peer, export=self._agreed.export_name
        )
        done = {id(r) for requests in self._completed_meanwhile for r in requests}
        abandoned = [request for request in batch if id(request) not in done]
        for request in abandoned:
            request.error = errno.EIO
        self._stream.abandon_buffer()
        self._completed(abandoned)
        for request in abandoned:
            request.cookie = _ANSWERED
        self._has_abandoned = True

    def _set_reading(self, *, wanted: bool) -> None:
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _completed(self, requests: list[HostRequest]) -> None:
        if self._submitting:
            self._completed_meanwhile.append(requests)
        if self._has_abandoned:
            requests = [r for r in requests if r.cookie is not _ANSWERED]
        self.in_flight -= len(requests)
        assert self.in_flight >= 0
        answers = self._answers
        held_before = answers.payload_bytes
        completed_bytes = answers.add_completed(requests)
        self._in_flight_bytes -= completed_bytes
        freed_bytes = completed_bytes - (answers.payload_bytes - held_before)
        if self._lost:
            answers.take()
            freed_bytes = completed_bytes
        if freed_bytes:
            self._share.give_back(freed_bytes)
        if self._lost:
            self._release_if_idle()
        else:
            self.schedule_turn()

    # What `Precedence` asks for besides

    @property
    def owes_reply(self) -> bool:
        """Tell whether a request of the client is in flight.

        The last flush is our own: of a reply that nobody asked for no byte may go out,
        the next process would send its own after it.
        """
        departure = self._departure
        is_departing = departure is not None and departure.is_flushed
        return self.in_flight > 0 and not is_departing

    def send_answered(self) -> None:
        """Hand all replies there are to the transport."""
        if self._answers.pending:
            self._sending.send()

    def expect_acknowledgement(self, begun_bytes: int) -> None:
        """Watch that the peer takes what it has not, of which so much is new."""
        self._sending.note_begun(begun_bytes)
        self._progress.arm()

    # What the peer has to go on with

    def _underway(self) -> Underway:
        stream = self._stream
        receiving = None
        if self._reading and stream.is_within_request:
            receiving = Position(stream.taken_count, stream.received_bytes)
        return Underway(receiving, self._sending.position())

    def _stuck(self, reason: str) -> None:
        _log.warning(
            "nbd_connection_stuck",
            peer=self._peer,
            export=self._agreed.export_name,
            reason=reason,
        )
        self.abort()

    def _release_if_idle(self) -> None:
        if self.in_flight == 0 and not self._released:
            self._released = True
            self._precedence.let_followers_go()
            self._share.close()
            self._volume.release()
            self._closed(self)
