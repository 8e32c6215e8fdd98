"""Control messages of a session: in order, each once, whatever becomes of its links.

All of one direction travel over one link, the control link. Both sides count them, so
that a message's number need not travel. What the peer has not said it received is kept;
if the control link breaks, the two tell each other how many they received and go on
over another link with the first message that the other one lacks.

TRACKS and HASHES are not of these: what becomes of them is in `LinksClosed`.
"""

from __future__ import annotations

import asyncio
from collections import deque

from common.errors import ConnectionLostError, ProtocolError
from common.replication.link import Link
from common.replication.link_messages import (
    ControlReceived,
)
from common.replication.messages import Message

UNTOLD_MAX = 64
"""Control messages received after which the peer is told that it may forget them."""

KEPT_MAX = 4096
"""Kept for a peer that doesn't say it received them: one that acknowledges nothing
for so long is not worth more memory, and its session ends."""


class ControlChannel:
    """One side's control messages, out and in; `pump` sends them.

    Without `outlives` (the peer can't go on over another link) nothing is kept and
    nothing is told, and a broken link ends `pump`.
    """

    def __init__(self, epoch: int, link: Link, *, outlives: bool) -> None:
        self.received_count = 0
        """Of the peer's, in this session."""
        self._epoch = epoch
        self._link: Link | None = link
        self._outlives = outlives
        self._told_count = 0
        self._kept: deque[Message] = deque()
        self._first = 0
        """Number of the oldest message kept."""
        self._next = 0
        """Number of the next message to be sent; never below `_first`."""
        self._wake = asyncio.Event()
        self._rested = asyncio.Event()

    def post(self, message: Message) -> None:
        """Have a message sent after all those posted before it."""
        if len(self._kept) >= KEPT_MAX:
            raise ConnectionLostError(
                f"the peer has not acknowledged {KEPT_MAX} control messages"
            )
        self._kept.append(message)
        self._wake.set()

    def note_received(self) -> None:
        """Count a control message of the peer as it is taken off its link."""
        self.received_count += 1
        if self.received_count - self._told_count >= UNTOLD_MAX:
            self._wake.set()

    def acknowledged(self, count: int) -> None:
        """The peer has received `count` messages in all: forget those."""
        if not self._outlives or count > self._next:
            # `_next`, not the highest ever: a peer that told of fewer than it has can't
            # have got the others meanwhile.
            raise ProtocolError(f"{count} control messages received, of {self._next}")
        while self._first < count:  # ends: at most what is kept
            self._kept.popleft()
            self._first += 1

    def hold(self) -> None:
        """The control link is gone: send nothing until `go_on`."""
        self._link = None

    def go_on(self, link: Link, peer_count: int) -> None:
        """Send over another link all that the peer has not received."""
        if peer_count < self._first:
            raise ProtocolError(f"{peer_count} is less than was acknowledged before")
        self.acknowledged(peer_count)
        self._next = peer_count
        self._link = link
        self._wake.set()

    async def pump(self) -> None:
        """Send what is posted, until cancelled."""
        while True:  # ends with the session
            link, message = self._link, self._due()
            if link is None or message is None:
                self._rested.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            self._rested.clear()
            try:
                await link.send(message)
            except ConnectionLostError:
                if self._link is link:
                    self._link = None
                if not self._outlives:
                    self._rested.set()
                    raise

    def _due(self) -> Message | None:
        """Return what to send next, counted as sent."""
        if self._outlives and self.received_count - self._told_count >= UNTOLD_MAX:
            self._told_count = self.received_count
            return ControlReceived(self._epoch, self._told_count)
        index = self._next - self._first
        if index >= len(self._kept):
            return None
        message = self._kept[index]
        self._next += 1
        if not self._outlives:
            self._kept.popleft()
            self._first += 1
        return message

    async def rested(self) -> None:
        """Wait until all that was posted is sent, or can't be."""
        if self._link is not None and self._next - self._first < len(self._kept):
            self._rested.clear()
        await self._rested.wait()
