"""Messages about a session's links, and what becomes of one that dies.

With the feature `links` only.
"""

from __future__ import annotations

from dataclasses import dataclass

LINKS_LOST_MAX = 1024
"""Links that one LINKS_LOST may name: the sender has a few at a time."""


@dataclass(frozen=True, slots=True)
class LinkNumber:
    """First message after JOINED: this link is number `number` of the session.

    The link of HELLO is 0; a number is never given twice in a session.
    """

    epoch: int
    number: int


@dataclass(frozen=True, slots=True)
class LinksLost:
    """These links are gone: nothing more that they carried may take effect.

    Sent over the link that carries control messages from now on. `turn` counts these
    messages; only the answer to the newest one holds. `control_count`: how many of
    the receiver's control messages have been received.
    """

    epoch: int
    turn: int
    numbers: tuple[int, ...]
    control_count: int


@dataclass(frozen=True, slots=True)
class LinksClosed:
    """The answer, once all that came over those links has been taken in.

    `control_count`: how many of the sender's control messages have been received.
    Of the cycle `cycle_id` (None: none is open) the frames below `next_sequence`
    have been received and those in `ahead`, [first, last] pairs.
    """

    epoch: int
    turn: int
    control_count: int
    cycle_id: bytes | None
    next_sequence: int
    ahead: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ControlReceived:
    """`count` control messages of the peer have been received: it may forget them."""

    epoch: int
    count: int
