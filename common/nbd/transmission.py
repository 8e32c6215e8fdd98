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
takes no request while requests of an ended connection to the same export run, and
one whose end we may not see yet (`common.nbd.liveness`) takes none before it has
proved that its client was there after the new connection began.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

import structlog

from common.nbd import replies
from common.nbd.answers import Answers
from common.nbd.budget import MemoryBudget
from common.nbd.limits import NbdLimits
from common.nbd.liveness import (
    Ask,
    Doubt,
    Life,
    Told,
    ask_socket,
    ends_visibly,
    has_hung_up,
    read_away,
)
from common.nbd.outcome import Agreed
from common.nbd.progress import Position, ProgressWatch, Underway
from common.nbd.request_stream import RequestStream
from common.nbd.requests import Rules
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
        rules = Rules(
            size_bytes=volume.size_bytes,
            read_only=volume.read_only,
            form=agreed.form,
            contexts=agreed.contexts,
            fast_zero=volume.fast_zero and not volume.read_only,
            payload_bytes_max=limits.payload_bytes_max,
        )
        if budget is None:
            budget = MemoryBudget(limits.daemon_bytes_in_flight_max, 1)
        self._share = budget.share(self._loop, self._memory_granted)
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
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._reading = False
        # What completed while the volume's `submit` runs, should that raise.
        self._submitting = False
        self._completed_meanwhile: list[list[HostRequest]] = []
        self._has_abandoned = False
        # Of READs whose replies the transport has not sent yet.
        self._unsent_payload_bytes = 0
        self._is_unsent = False
        # How often, and how much was handed over while, replies waited to be sent.
        self._unsent_count = 0
        self._queued_bytes = 0
        # What has to end before a request is taken: requests of ended connections,
        # and of those in doubt, or a doubt about this one.
        self._waits_for: set[Transmission | Doubt] = set()
        # Newer connections that wait for what is in flight here.
        self._followers: list[Transmission] = []
        self._ask = ask
        self._doubt: Doubt | None = None
        # Sent of a reply that is owed, ahead of it; and whether the client can
        # prove nothing before the rest is sent.
        self._begun_bytes = 0
        self._proof_is_due = False
        self._in_turn = False
        self._turn_due = False
        self._ending = False
        self._lost = False
        self._released = False

    @property
    def export_name(self) -> str:
        return self._agreed.export_name

    def give_way_to(self, newer: Transmission) -> None:
        """Let a connection to the same export, which begins now, come first.

        It waits for what is in flight here if this client is gone, or may be. It
        does not wait for the client of this connection to prove itself or to read
        its replies: until then nothing more is submitted here.
        """
        connection = self._transport.get_extra_info("socket")
        if not self._ending:
            if self._transport.is_closing() or has_hung_up(connection):
                self.finish()
            elif self._may_hide_its_end(connection):
                self._begin_doubt()
        if self._in_flight and (self._ending or self._doubt is not None):
            self._followers.append(newer)
            newer._waits_for.add(self)

    def start(self, received: bytes) -> None:
        """Begin to read, after `received`, which came with the handshake's end."""
        self._transport.set_write_buffer_limits(_UNSENT_MARK_BYTES)
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
            # A long payload comes in many pieces: only the last is worth a turn.
            if self._stream.missing_bytes <= 0:
                self._turn()

    def eof_received(self) -> bool:
        self.finish()
        # Stay open for replies: the client may have closed its half only.
        return True

    def pause_writing(self) -> None:
        """Note that the last `writelines` could not be sent whole."""
        self._is_unsent = True
        self._unsent_count += 1
        self._queued_bytes = self._transport.get_write_buffer_size()
        self._progress.arm()

    def resume_writing(self) -> None:
        """Note that all has been sent."""
        self._is_unsent = False
        self._free_sent()
        self._schedule_turn()

    def connection_lost(self, _error: Exception | None) -> None:
        self._ending = True
        self._lost = True
        self._progress.stop()
        if self._doubt is not None:
            self._doubt.stop()
        self._share.stop_waiting()
        self._unsent_payload_bytes += self._answers.payload_bytes
        self._answers.take()
        self._free_sent()
        self._release_if_idle()

    # One turn: parse, submit, answer, choose whether to read on

    def _schedule_turn(self) -> None:
        if not (self._turn_due or self._in_turn or self._lost):
            self._turn_due = True
            self._loop.call_soon(self._run_due_turn)

    def _memory_granted(self) -> None:
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
        more = True
        while more:
            more = self._submit_next()
            if self._answers.pending:
                self._send()
        self._in_turn = False
        if self._followers and self._in_flight == 0:
            self._let_followers_go()
        if self._ending:
            self._set_reading(wanted=False)
            if self._in_flight == 0:
                self._close()
        else:
            self._set_reading(wanted=not (self._stream.is_stopped or self._must_wait()))
            if self._stream.is_within_request:
                self._progress.arm()

    def _close(self) -> None:
        if not self._transport.is_closing():
            read_away(self._transport.get_extra_info("socket"))
            self._transport.close()

    def _send(self) -> None:
        answers = self._answers
        self._unsent_payload_bytes += answers.payload_bytes
        pending = answers.take()
        if self._transport.is_closing():
            return
        if self._begun_bytes:
            pending[0] = replies.rest(self._agreed.form, pending[0], self._begun_bytes)
            self._begun_bytes = 0
            self._proof_is_due = False
        if self._is_unsent:
            self._queued_bytes += sum(map(len, pending))
        # Calls `pause_writing` if not all of it could be sent at once.
        self._transport.writelines(pending)
        if not self._is_unsent:
            self._free_sent()

    def _free_sent(self) -> None:
        if self._unsent_payload_bytes:
            self._share.give_back(self._unsent_payload_bytes)
            self._unsent_payload_bytes = 0

    def _must_wait(self) -> bool:
        """Tell whether no request may be taken now, whatever its kind."""
        return bool(self._waits_for) or (
            self._share.is_waiting
            or (
                self._is_unsent
                and self._transport.get_write_buffer_size()
                > self._limits.write_buffer_bytes_max
            )
        )

    def _submit_next(self) -> bool:
        """Take one batch and hand it over; tell whether there can be another."""
        if self._ending or self._must_wait():
            return False
        stream = self._stream
        batch = stream.take(self._in_flight, self._in_flight_bytes)
        if batch:
            if self._doubt is not None:
                self._keep_back(batch, self._doubt)
                return False
            self._in_flight += len(batch)
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
            self._ending = True
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
        self._in_flight -= len(requests)
        assert self._in_flight >= 0
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
            self._schedule_turn()

    # Newer connections to the same export

    def _let_followers_go(self) -> None:
        followers, self._followers = self._followers, []
        for follower in followers:
            follower._stop_waiting_for(self)  # noqa: SLF001 - of the same class

    def _stop_waiting_for(self, what: Transmission | Doubt) -> None:
        self._waits_for.discard(what)
        self._schedule_turn()

    def _may_hide_its_end(self, connection: socket.socket) -> bool:
        is_relayed = self._ask is not ask_socket
        return (is_relayed or not ends_visibly(connection)) and (
            not self._volume.read_only
        )

    def _begin_doubt(self) -> None:
        if self._doubt is None:
            self._doubt = Doubt(
                self._loop, self._begin_reply, self._look, self._doubt_settled
            )
        self._doubt.renew()
        if self._in_flight:
            self._ask_about_client(self._doubt)

    def _keep_back(self, batch: list[HostRequest], doubt: Doubt) -> None:
        """Submit nothing before the client has proved to be there."""
        self._stream.put_back(batch)
        self._waits_for.add(doubt)
        self._ask_about_client(doubt)

    def _ask_about_client(self, doubt: Doubt) -> None:
        self._unsent_count += 1
        doubt.ask()
        self._progress.arm()

    def _begin_reply(self) -> bool:
        """Send the next byte of a reply that is owed; tell whether one is."""
        if self._transport.is_closing():
            return False
        if self._answers.pending:
            self._send()
        if not self._in_flight and self._doubt not in self._waits_for:
            return False
        start = replies.start(self._agreed.form)
        following = start[self._begun_bytes : self._begun_bytes + 1]
        # It has four. After that the reply itself has to do, if one will come: if
        # not, new connections came in each of four round trips, and we go by what
        # was acknowledged of them all.
        self._proof_is_due = not following and self._in_flight > 0
        if following:
            self._begun_bytes += 1
            self._queued_bytes += 1
            self._transport.write(following)
        return True

    def _look(self, told: Told) -> None:
        if self._transport.is_closing():
            return
        if self._proof_is_due or self._transport.get_write_buffer_size():
            told(Life.UNKNOWN)
        else:
            self._ask(self._transport.get_extra_info("socket"), told)

    def _is_proof_awaited(self) -> bool:
        doubt = self._doubt
        return doubt is not None and doubt.is_asking and not self._proof_is_due

    def _doubt_settled(self, life: Life) -> None:
        doubt, self._doubt = self._doubt, None
        assert doubt is not None
        if self._ending:
            return
        if life is Life.GONE:
            self.finish()
        else:
            self._let_followers_go()
            self._stop_waiting_for(doubt)

    # What the peer has to go on with

    def _underway(self) -> Underway:
        stream = self._stream
        receiving = replying = None
        if self._reading and stream.is_within_request:
            receiving = Position(stream.taken_count, stream.received_bytes)
        if self._is_unsent or self._is_proof_awaited():
            unsent_bytes = self._transport.get_write_buffer_size()
            replying = Position(self._unsent_count, self._queued_bytes - unsent_bytes)
        return Underway(receiving, replying)

    def _stuck(self, reason: str) -> None:
        _log.warning(
            "nbd_connection_stuck",
            peer=self._peer,
            export=self._agreed.export_name,
            reason=reason,
        )
        self.abort()

    def _release_if_idle(self) -> None:
        if self._in_flight == 0 and not self._released:
            self._released = True
            self._let_followers_go()
            self._share.close()
            self._volume.release()
            self._closed(self)
