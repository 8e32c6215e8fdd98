"""How long a daemon keeps others waiting, seen from outside.

A probe does one thing again and again and keeps how long each time took. Several
run beside each other, and beside whatever is done to the daemon meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

PAUSE_SECONDS = 0.002
"""Between two round trips: the probes are not to be the load."""


class Probe:
    """Times one kind of round trip; `seconds` has one entry for each."""

    def __init__(self, name: str, once: Callable[[], Awaitable[object]]) -> None:
        self.name = name
        self.seconds: list[float] = []
        self._once = once
        self._stopping = False

    async def run(self) -> None:
        """Go on until `stop`; the round trip under way then is made to its end."""
        while not self._stopping:
            began = time.monotonic()
            await self._once()
            self.seconds.append(time.monotonic() - began)
            await asyncio.sleep(PAUSE_SECONDS)

    def start(self) -> None:
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    def longer_than(self, seconds: float) -> list[float]:
        return [each for each in self.seconds if each >= seconds]

    def __str__(self) -> str:
        ordered = sorted(self.seconds) or [0.0]
        p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
        return (
            f"{self.name}: {len(self.seconds)} round trips, p50 {p50 * 1e3:.1f} ms, "
            f"p99 {p99 * 1e3:.1f} ms, max {ordered[-1] * 1e3:.1f} ms"
        )


@contextlib.asynccontextmanager
async def probing(*probes: Probe) -> AsyncIterator[None]:
    """Run the probes for the length of the block; their failures end it.

    What they found is printed, which pytest shows where a test failed. A round trip
    that is under way at the end counts: it may be the longest of all.
    """
    async with asyncio.TaskGroup() as tasks:
        for probe in probes:
            probe.start()
            tasks.create_task(probe.run(), name=probe.name)
        try:
            yield
        finally:
            for probe in probes:
                probe.stop()
    print(*probes, sep="\n")
