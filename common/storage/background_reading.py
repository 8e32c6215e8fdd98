"""When somebody who reads in the background may read on. Pure; time comes in.

A verify or a scrub is in no hurry; hosts are. Its rate bounds what it takes of an idle
machine. Beside others, who want the same device, the same processors and the same
interpreter, that is not enough: how long a piece took tells how scarce these are, so
what it took, several times over, is then left to the others before the next.
"""

from __future__ import annotations

SHARE_MIN = 10
"""Beside others it is at work for at most one part in so many."""

REST_SECONDS_MAX = 2.0
"""One piece that a disk was very slow with does not end the reading."""


class BackgroundReading:
    """The pace of one reader."""

    def __init__(self, rate_bytes: int) -> None:
        """`rate_bytes`: read in a second at most, idle or not."""
        self._rate_bytes = rate_bytes
        self._next = 0.0

    def note(
        self, began: float, ended: float, read_bytes: int, *, beside_others: bool
    ) -> None:
        """Note a piece that took from `began` to `ended`, in monotonic seconds."""
        self._next = max(self._next, began) + read_bytes / self._rate_bytes
        if beside_others:
            rest = (ended - began) * (SHARE_MIN - 1)
            self._next = max(self._next, ended + min(rest, REST_SECONDS_MAX))

    def wait_seconds(self, now: float) -> float:
        """Return how long to wait before the next piece; what was not used is lost."""
        return max(self._next - now, 0.0)
