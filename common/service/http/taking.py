"""The site's status for all who ask over HTTP: taken once, shared for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from common.ports import Clock
from common.service.status import SiteStatus

SHARED_SECONDS: Final = 0.5
"""Whoever asks within this time gets the same one: taking it costs each group's loop a
moment, which hosts are served by."""


class StatusTaker:
    """Of one daemon, on its main loop."""

    def __init__(
        self, status: Callable[[], Awaitable[SiteStatus]], clock: Clock
    ) -> None:
        self._status = status
        self._clock = clock
        self._taking: asyncio.Task[SiteStatus] | None = None
        self._began = 0.0

    async def take(self) -> SiteStatus:
        """Return a status of now, or of a moment ago; raises what `status` raises."""
        now = self._clock.monotonic()
        taking = self._taking
        is_old = now - self._began >= SHARED_SECONDS
        if taking is None or (taking.done() and (is_old or _has_failed(taking))):
            taking = asyncio.ensure_future(self._status())
            self._taking, self._began = taking, now
        return await asyncio.shield(taking)

    async def close(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait({self._taking})


def _has_failed(taking: asyncio.Task[SiteStatus]) -> bool:
    return taking.cancelled() or taking.exception() is not None
