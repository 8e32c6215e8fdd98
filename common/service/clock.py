"""The machine's clocks behind `common.ports.Clock`."""

from __future__ import annotations

import time


class SystemClock:
    """Wall time for what people read, monotonic time for what is waited for."""

    __slots__ = ()

    def now_ns(self) -> int:
        """Return nanoseconds since 1970-01-01 UTC; it may jump either way."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never goes back.

        The same clock as asyncio's `loop.time()`, so both can be mixed.
        """
        return time.monotonic()
