"""How often something may be done: tokens that fill up with time."""

from __future__ import annotations

import asyncio

from common.ports import Clock


class Pace:
    """Of one loop. A turn that is early waits; turns are in the order of asking."""

    def __init__(self, per_second: float, at_once: int, clock: Clock) -> None:
        self._seconds = 1 / per_second
        self._ahead_seconds = at_once / per_second
        self._clock = clock
        self._next = clock.monotonic() - self._ahead_seconds

    def take(self, now: float) -> float:
        """Take a turn; return the seconds to wait for it."""
        self._next = max(self._next, now - self._ahead_seconds) + self._seconds
        return max(0.0, self._next - now)

    async def turn(self) -> None:
        """Wait for one's turn."""
        seconds = self.take(self._clock.monotonic())
        if seconds:
            await asyncio.sleep(seconds)
