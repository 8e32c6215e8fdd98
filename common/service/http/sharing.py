"""Bodies of answers that cost processor time, made once for all who ask in a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from common.ports import Clock
from common.service.http.taking import SHARED_SECONDS

COST_SHARE: Final = 20
"""A body is kept for at least so many times what it took to make: with hundreds of
groups that is a fifth of a second of the processor that hosts are served by."""

BODIES_MAX: Final = 1024
"""Each of a few kinds, and one a group."""


class SharedBodies:
    """Of one daemon, on its main loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._making: dict[str, asyncio.Task[bytes]] = {}
        self._kept_until: dict[str, float] = {}

    async def get(self, name: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return a body, perhaps of a moment ago; raises what `make` raises."""
        making = self._making.get(name)
        if making is None or (making.done() and self._is_stale(name, making)):
            if len(self._making) >= BODIES_MAX:
                self._making.clear()
            making = asyncio.ensure_future(self._make(name, make))
            self._making[name] = making
        return await asyncio.shield(making)

    def _is_stale(self, name: str, made: asyncio.Task[bytes]) -> bool:
        if made.cancelled() or made.exception() is not None:
            return True
        return self._clock.monotonic() >= self._kept_until[name]

    async def _make(self, name: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        began = self._clock.monotonic()
        body = await make()
        ended = self._clock.monotonic()
        kept = max(SHARED_SECONDS, COST_SHARE * (ended - began))
        self._kept_until[name] = ended + kept
        return body
