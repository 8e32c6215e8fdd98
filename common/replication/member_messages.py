"""Messages about which volumes a group has; with the feature `members` only.

A HELLO says which they are. These say what it can't.
"""

from __future__ import annotations

from dataclasses import dataclass

OFFER_TEXT_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Whole:
    """The cycle completes the first copy of these volumes, of those that are joining.

    Before its CYCLE_BEGIN. The point that is made of the cycle has them, and so has
    every later one; no point has a joining volume that was not named so.
    """

    epoch: int
    cycle_id: bytes
    volumes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OfferVolume:
    """Would the receiver take a volume like this one into the group? Changes nothing.

    At any time; the sizes are as in a HELLO.
    """

    epoch: int
    name: str
    volume_id: bytes
    size_bytes: int
    track_bytes: int


@dataclass(frozen=True, slots=True)
class VolumeAnswered:
    """The answer: empty if it would, else why it would not, for an operator."""

    epoch: int
    text: str
