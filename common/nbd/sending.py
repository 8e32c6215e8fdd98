"""Replies on their way to the client: what the transport took, and what it has sent.

The last step of every host request's path. Measure before changing it.
"""

from __future__ import annotations

import asyncio

from common.nbd.answers import Answers
from common.nbd.budget import BudgetShare
from common.nbd.precedence import Precedence
from common.nbd.progress import Position


class Sending:
    """The sending half of one connection.

    Memory of READs is given back once the transport has sent all that it was given.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        answers: Answers,
        precedence: Precedence,
        share: BudgetShare,
    ) -> None:
        self.is_unsent = False
        """The transport holds what it could not send at once."""
        self._transport = transport
        self._answers = answers
        self._precedence = precedence
        self._share = share
        # Of READs whose replies the transport has not sent yet.
        self._unsent_payload_bytes = 0
        # How often, and how much was handed over while, replies waited to be sent.
        self._unsent_count = 0
        self._queued_bytes = 0

    def send(self) -> None:
        """Hand all answers there are to the transport."""
        answers = self._answers
        self._unsent_payload_bytes += answers.payload_bytes
        pending = answers.take()
        if self._transport.is_closing():
            return
        if self._precedence.begun_bytes:
            pending[0] = self._precedence.rest_of(pending[0])
        if self.is_unsent:
            self._queued_bytes += sum(map(len, pending))
        # Calls `pause_writing` if not all of it could be sent at once.
        self._transport.writelines(pending)
        if not self.is_unsent:
            self._free_sent()

    def note_unsent(self) -> None:
        """The last answers could not be sent whole."""
        self.is_unsent = True
        self._unsent_count += 1
        self._queued_bytes = self._transport.get_write_buffer_size()

    def note_sent(self) -> None:
        """All that was handed over has been sent."""
        self.is_unsent = False
        self._free_sent()

    def note_begun(self, begun_bytes: int) -> None:
        """The client has to acknowledge what was sent, of which so much is new."""
        self._unsent_count += not begun_bytes
        self._queued_bytes += begun_bytes

    def drop(self) -> None:
        """The connection is lost: nothing of what waits here will be sent."""
        self._unsent_payload_bytes += self._answers.payload_bytes
        self._answers.take()
        self._free_sent()

    def position(self) -> Position | None:
        """Return how far the client is with taking replies; None: none waits."""
        if self.is_unsent or self._precedence.awaits_proof:
            unsent_bytes = self._transport.get_write_buffer_size()
            return Position(self._unsent_count, self._queued_bytes - unsent_bytes)
        return None

    def _free_sent(self) -> None:
        if self._unsent_payload_bytes:
            self._share.give_back(self._unsent_payload_bytes)
            self._unsent_payload_bytes = 0
