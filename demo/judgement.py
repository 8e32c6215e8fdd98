"""Whether the copy is what was promised: judged of what was found, no daemon asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from demo.sites import DemoError

TRACK_BYTES: Final = 4096
SHARE_MAX: Final = 1.2
"""Bytes that going back may move, by the bytes of the tracks that differ."""

READ_BYTES: Final = 1 << 20


class UnsoundError(DemoError):
    """What a copy holds does not fit together; the message says what."""


def are_there(found: Mapping[int, int], promised: Mapping[int, int]) -> bool:
    """Tell whether of each client so many transactions are there, or more."""
    return all(found.get(client, 0) >= count for client, count in promised.items())


def is_little(moved_bytes: int, tracks: int) -> bool:
    """Tell whether going back moved about what differed, and no more."""
    return moved_bytes <= SHARE_MAX * tracks * TRACK_BYTES


def tracks_apart(mine: Path, theirs: Path) -> int:
    """Return how many tracks differ between two devices, byte by byte."""
    count = 0
    with mine.open("rb") as one, theirs.open("rb") as another:
        while (ours := one.read(READ_BYTES)) or another.peek(1):
            other = another.read(READ_BYTES)
            if ours == other:
                continue
            count += sum(
                ours[at : at + TRACK_BYTES] != other[at : at + TRACK_BYTES]
                for at in range(0, READ_BYTES, TRACK_BYTES)
            )
    return count
