"""The connections of a server that its predecessor had, and its successor will have.

Lives on the server's loop; what blocks is done in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from common.nbd.connections import HandedOver
from common.nbd.kept_connection import DescriptorStore, KeptConnection, give, take_back
from common.nbd.reopening import NotWelcomeError

_log = structlog.get_logger(__name__)

Reopen = Callable[[KeptConnection], HandedOver]


class Succession:
    """Without a store nothing comes and nothing goes: clients connect again."""

    def __init__(self, store: DescriptorStore | None) -> None:
        self._store: Final = store
        self._kept: list[KeptConnection] = []
        self._is_over = False

    @property
    def is_possible(self) -> bool:
        """Tell whether another process may go on with our connections."""
        return self._store is not None

    async def take_up(
        self, stored: dict[str, list[int]], reopen: Reopen
    ) -> dict[asyncio.AbstractEventLoop, list[HandedOver]]:
        """Return the predecessor's connections by the loops they are for, in order.

        `stored` are the descriptors that came from the manager. `reopen` raises
        `NotWelcomeError` for a connection that is to end.
        """
        by_loop: dict[asyncio.AbstractEventLoop, list[HandedOver]] = {}
        for kept in await asyncio.to_thread(take_back, self._store, stored):
            try:
                handed = reopen(kept)
            except NotWelcomeError as error:
                kept.refuse(str(error))
            except Exception as error:  # noqa: BLE001 - others are still to be served
                kept.refuse(repr(error))
            else:
                by_loop.setdefault(handed.volume.loop, []).append(handed)
        if by_loop:
            count = sum(map(len, by_loop.values()))
            _log.info("nbd_connections_taken_up", count=count)
        return by_loop

    def add(self, kept: KeptConnection) -> None:
        """Take a connection to give away; one that comes too late ends."""
        if self._is_over:
            kept.refuse("it was not done in time")
        else:
            self._kept.append(kept)

    async def give(self) -> None:
        """Give all to the manager, in the order in which they began."""
        self._is_over = True
        kept, self._kept = self._kept, []
        kept.sort(key=lambda each: each.state.place)
        if self._store is not None and kept:
            await asyncio.to_thread(give, self._store, kept)
