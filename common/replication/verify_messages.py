"""Messages of a verify: whether tracks of a point are what the sender had at its cut.

With the feature `verify` only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

LEAVES_MAX = 1024
"""Hashes of tracks in one VERIFIED: they travel in its meta."""

QUESTIONS_MAX = 8
"""Questions of a verify under way at once: bounds what a receiver has queued."""

VERIFIED_TEXT_BYTES_MAX = 1024


class Outcome(enum.IntEnum):
    """What became of a question of a verify."""

    EQUAL = 0
    DIFFERS = 1
    GONE = 2
    UNREADABLE = 3


@dataclass(frozen=True, slots=True)
class Verify:
    """Are these tracks, at the point of this cycle, what the sender had at its cut?

    `root` is of their bytes: see `hash_tree.py`. The point is kept from the moment the
    question is received until it is answered. Covers `COVERED_BYTES_MAX` at most.
    """

    epoch: int
    cycle_id: bytes
    question: int
    volume: int
    first: int
    count: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """The answer to VERIFY of the same number; nothing is changed by it.

    `leaves`: with DIFFERS the receiver's hash of each track, unless there are more
    than `LEAVES_MAX`. GONE: the point is not there any more. `text` says what could
    not be read.
    """

    epoch: int
    cycle_id: bytes
    question: int
    outcome: int
    leaves: tuple[bytes, ...]
    text: str
