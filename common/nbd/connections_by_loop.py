"""Connections where their volumes live, and how the server's own loop reaches them.

Loops tell each other by messages alone: one that hangs or has ended keeps nobody here
waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from common.nbd.budget import MemoryBudget
from common.nbd.connections import HandedOver, HostConnections
from common.nbd.limits import NbdLimits


class ConnectionsByLoop:
    """The `HostConnections` of each loop that has a volume; the server's loop's own."""

    def __init__(
        self,
        limits: NbdLimits,
        budget: MemoryBudget,
        ended: Callable[[HandedOver], None],
    ) -> None:
        """`ended`: told of each connection's end, on the loop of its volume."""
        self._limits = limits
        self._budget = budget
        self._ended = ended
        self._by_loop: dict[asyncio.AbstractEventLoop, HostConnections] = {}

    def __iter__(self) -> Iterator[HostConnections]:
        return iter(self._by_loop.values())

    def hand_over(self, handed: HandedOver) -> None:
        """Have a connection served on its volume's loop.

        Raises `RuntimeError` where that loop has ended.
        """
        loop = handed.volume.loop
        loop.call_soon_threadsafe(self._on(loop).adopt, handed)

    async def take_up(
        self, kept: Mapping[asyncio.AbstractEventLoop, Sequence[HandedOver]]
    ) -> None:
        """Go on with connections that a process before kept; all loops at once.

        Whoever is disconnected from the call on is known where he lives.
        """
        taking = [
            asyncio.run_coroutine_threadsafe(self._on(loop).take_up(each), loop)
            for loop, each in kept.items()
        ]
        await asyncio.gather(*map(asyncio.wrap_future, taking))

    def tell(self, what: Callable[[HostConnections], None]) -> None:
        """Have each loop do something soon."""
        for loop, hosts in self._by_loop.items():
            with contextlib.suppress(RuntimeError):  # closed: nothing runs there
                loop.call_soon_threadsafe(what, hosts)

    def _on(self, loop: asyncio.AbstractEventLoop) -> HostConnections:
        hosts = self._by_loop.get(loop)
        if hosts is None:
            self._forget_closed()
            hosts = HostConnections(self._limits, self._budget, self._ended)
            self._by_loop[loop] = hosts
        return hosts

    def _forget_closed(self) -> None:
        self._by_loop = {k: v for k, v in self._by_loop.items() if not k.is_closed()}
