"""Which of the connections to an export goes first.

A client that reconnects sends its unanswered writes again and goes on from there.
So that no write of its old connection lands on top of newer ones, a connection
takes no request while requests of an ended connection to the same export run, and
one whose end we may not see yet (`common.nbd.liveness`) takes none before it has
proved that its client was there after the new connection began.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from common.nbd import replies
from common.nbd.liveness import (
    Ask,
    Doubt,
    Life,
    Told,
    ask_socket,
    ends_visibly,
    has_hung_up,
)
from common.nbd.protocol import WireForm
from common.ports import Buffer


class Holder(Protocol):
    """The connection whose precedence it is."""

    in_flight: int
    is_ending: bool

    @property
    def owes_reply(self) -> bool:
        """Tell whether a request of the client is in flight."""
        ...

    def finish(self) -> None:
        """Take no more requests; close once those in flight are answered."""

    def schedule_turn(self) -> None:
        """See what may go on, soon."""

    def send_answered(self) -> None:
        """Hand all replies there are to the transport."""

    def expect_acknowledgement(self, begun_bytes: int) -> None:
        """Watch that the peer takes what it has not, of which so much is new."""


class Precedence:
    """One connection's place among those to the same export; all on one loop."""

    def __init__(
        self,
        holder: Holder,
        transport: asyncio.Transport,
        form: WireForm,
        ask: Ask,
        *,
        read_only: bool,
    ) -> None:
        self.begun_bytes = 0
        """Sent of a reply that is owed, ahead of it."""
        self.followers: list[Precedence] = []
        """Newer connections that wait for what is in flight here."""
        self.doubt: Doubt | None = None
        """Whether this client was there after the newest of the others came."""
        self._holder = holder
        self._transport = transport
        self._form = form
        self._ask = ask
        self._read_only = read_only
        # What has to end before a request is taken: requests of ended connections,
        # and of those in doubt, or a doubt about this one.
        self._waits_for: set[Precedence | Doubt] = set()
        # Whether the client can prove nothing before the rest of a reply is sent.
        self._proof_is_due = False

    @property
    def waits(self) -> bool:
        """Tell whether no request may be taken now."""
        return bool(self._waits_for)

    @property
    def awaits_proof(self) -> bool:
        """Tell whether the client has to acknowledge something."""
        doubt = self.doubt
        return doubt is not None and doubt.is_asking and not self._proof_is_due

    def give_way_to(self, newer: Precedence) -> None:
        """Let a connection to the same export, which begins now, come first.

        It waits for what is in flight here if this client is gone, or may be. It
        does not wait for the client of this connection to prove itself or to read
        its replies: until then nothing more is submitted here.
        """
        holder = self._holder
        connection = self._transport.get_extra_info("socket")
        if not holder.is_ending:
            if self._transport.is_closing() or has_hung_up(connection):
                holder.finish()
            elif self._may_hide_its_end(connection):
                self._begin_doubt()
        if holder.in_flight and (holder.is_ending or self.doubt is not None):
            self.followers.append(newer)
            newer._waits_for.add(self)

    def let_followers_go(self) -> None:
        """Nothing is in flight here any more, or the client has proved itself."""
        followers, self.followers = self.followers, []
        for follower in followers:
            follower._stop_waiting_for(self)  # noqa: SLF001 - of the same class

    def wait_for_proof(self) -> None:
        """Take no request before the client has proved to be there."""
        assert self.doubt is not None
        self._waits_for.add(self.doubt)
        self._ask_about_client(self.doubt)

    def rest_of(self, reply: Buffer) -> Buffer:
        """Return what is still to be sent of a reply that was begun."""
        rest = replies.rest(self._form, reply, self.begun_bytes)
        self.begun_bytes = 0
        self._proof_is_due = False
        return rest

    def doubt_again(self) -> None:
        """Go on with a doubt that the daemon before had, or ended with."""
        self._begin_doubt()

    def stop(self) -> None:
        """The connection is closed: its client is asked nothing more."""
        if self.doubt is not None:
            self.doubt.stop()

    def _stop_waiting_for(self, what: Precedence | Doubt) -> None:
        self._waits_for.discard(what)
        self._holder.schedule_turn()

    def _may_hide_its_end(self, connection: socket.socket) -> bool:
        is_relayed = self._ask is not ask_socket
        return (is_relayed or not ends_visibly(connection)) and not self._read_only

    def _begin_doubt(self) -> None:
        if self.doubt is None:
            loop = asyncio.get_running_loop()
            self.doubt = Doubt(loop, self._begin_reply, self._look, self._settled)
        self.doubt.renew()
        if self._holder.owes_reply:
            self._ask_about_client(self.doubt)

    def _ask_about_client(self, doubt: Doubt) -> None:
        doubt.ask()
        self._holder.expect_acknowledgement(0)

    def _begin_reply(self) -> bool:
        """Send the next byte of a reply that is owed; tell whether one is."""
        holder = self._holder
        if self._transport.is_closing():
            return False
        holder.send_answered()
        if not holder.owes_reply and self.doubt not in self._waits_for:
            return False
        start = replies.start(self._form)
        following = start[self.begun_bytes : self.begun_bytes + 1]
        # It has four. After that the reply itself has to do, if one will come: if
        # not, new connections came in each of four round trips, and we go by what
        # was acknowledged of them all.
        self._proof_is_due = not following and holder.owes_reply
        if following:
            self.begun_bytes += 1
            self._transport.write(following)
            holder.expect_acknowledgement(1)
        return True

    def _look(self, told: Told) -> None:
        if self._transport.is_closing():
            return
        if self._proof_is_due or self._transport.get_write_buffer_size():
            told(Life.UNKNOWN)
        else:
            self._ask(self._transport.get_extra_info("socket"), told)

    def _settled(self, life: Life) -> None:
        doubt, self.doubt = self.doubt, None
        assert doubt is not None
        if self._holder.is_ending:
            return
        if life is Life.GONE:
            self._holder.finish()
        else:
            self.let_followers_go()
            self._stop_waiting_for(doubt)
