"""Numbers of frames as messages tell them: [first, last] pairs. Pure.

What a peer tells may be anything within its bounds: a pair of a few bytes can name
billions of numbers. So whoever is told walks what it has itself, never what is told.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence


def covered(numbers: Iterable[int], pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return those of `numbers` that lie within `pairs`, ascending, each once."""
    known = sorted(numbers)
    found: list[int] = []
    at = 0
    for first, last in sorted(pairs):
        at = max(at, bisect_left(known, first))
        end = bisect_right(known, last)
        if end > at:
            found += known[at:end]
            at = end
    return found
