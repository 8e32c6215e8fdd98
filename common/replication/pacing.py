"""A token bucket: how fast bytes may be sent. Pure; time is an argument.

What is sent is paid for with its full length on the wire, at once. Bulk asks first
and waits while the bucket is in debt; control messages and heartbeats never wait, and
are paid for by the bulk after them. So the rate holds over all that is sent, to within
one frame and `BURST_SECONDS`, and nothing small ever stands behind bulk.
"""

from __future__ import annotations

BURST_SECONDS = 0.05
"""What may be caught up after nothing was sent for a moment: a timer that woke late,
a frame that took long to encode. Longer idling is not made up for."""

FRAME_SECONDS = 0.25
"""A frame occupies the link for at most this long: so long waits what is behind it."""


class TokenBucket:
    """Bytes that may be sent now; below zero they are owed."""

    def __init__(self, rate: float | None, now: float) -> None:
        """`rate` in bytes a second, None for no limit; `now` of a monotonic clock."""
        assert rate is None or rate > 0
        self._rate = rate
        self._tokens = 0.0
        self._counted_at = now

    @property
    def rate(self) -> float | None:
        return self._rate

    def set_rate(self, rate: float | None, now: float) -> None:
        """Go on at another rate. What is owed stays owed, in seconds of sending."""
        assert rate is None or rate > 0
        self._fill(now)
        if self._rate is not None and rate is not None:
            self._tokens *= rate / self._rate
        else:
            self._tokens = 0.0
        self._rate = rate

    def seconds_until_free(self, now: float) -> float:
        """Return how long bulk has to wait; 0: send now, a frame of any length."""
        self._fill(now)
        if self._rate is None or self._tokens > -1:  # a part of a byte is not owed
            return 0.0
        return -self._tokens / self._rate

    def take(self, size_bytes: int, now: float) -> None:
        """Pay for what is sent now."""
        assert size_bytes >= 0
        self._fill(now)
        if self._rate is not None:
            self._tokens -= size_bytes

    def _fill(self, now: float) -> None:
        elapsed = max(0.0, now - self._counted_at)
        self._counted_at = max(now, self._counted_at)
        if self._rate is not None:
            self._tokens = min(
                self._tokens + elapsed * self._rate, self._rate * BURST_SECONDS
            )


def frame_bytes(rate: float | None, most: int) -> int:
    """Return how long a frame may be at a rate; at most `most` bytes, at least one."""
    if rate is None:
        return most
    return max(1, min(most, int(rate * FRAME_SECONDS)))
