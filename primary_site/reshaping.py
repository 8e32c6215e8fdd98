"""Changes of a group's volumes between two cycles: one that grows, comes, leaves.

A cycle under way is waited for, but not for long: a first copy takes days. Then it is
given up, and the next one sends what it has not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from common.errors import RefusedError
from primary_site.background import retrieve
from primary_site.growing import Growth, check_size, find_volume, grow

if TYPE_CHECKING:
    from primary_site.group_cycles import GroupCycles

PATIENCE_SECONDS = 10.0
"""Who changes volumes waits so long for the cycle under way, then it is given up."""

T = TypeVar("T")


async def _nothing(why: str) -> None:
    del why


class Reshaping:
    """Of one group; owned by its loop."""

    def __init__(self, cycles: GroupCycles) -> None:
        self.before: Callable[[str], Awaitable[None]] = _nothing
        """Awaited, with the reason, before volumes change: ends what knows them."""
        self.under_way: set[asyncio.Task[Any]] = set()
        self._cycles = cycles
        self._log = structlog.get_logger().bind(group=cycles.group.name)

    async def run(self, why: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Change the group's volumes while no cut stands, and none is taken.

        A cycle under way is waited for, but not for long, then given up. Begun, it goes
        on to its end, whoever asked. Raises `RefusedError`, and what `work` does.
        """
        if self._cycles.is_stopping:
            raise RefusedError("the daemon stops")
        working = asyncio.create_task(self._run(why, work), name=why)
        self.under_way.add(working)
        working.add_done_callback(self.under_way.discard)
        working.add_done_callback(retrieve)
        return await asyncio.shield(working)

    @property
    def is_under_way(self) -> bool:
        return bool(self.under_way)

    async def _run(self, why: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await self._reach_boundary(why)
        try:
            await self._cycles.cut_settled()
            if self._cycles.group.cut is not None:
                await self._cycles.abandon_here(why)
            await self._cycles.destaged()
            await self.before(why)
            done = await work()
        finally:
            self._cycles.boundary.release()
        self._cycles.when_moved_on()
        self._cycles.wake.set()
        return done

    async def _reach_boundary(self, why: str) -> None:
        """Acquire `boundary`: a cycle that takes long ends with its relation."""
        while True:  # ends with the drain's next read, or with its session
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._cycles.boundary.acquire()
            except TimeoutError:
                self._cycles.group.invalidate(why)
            else:
                return

    async def grow(self, name: str, size_bytes: int) -> Growth:
        """Make a volume larger; it is served so on return. As `run` of it."""
        group = self._cycles.group
        volume = find_volume(group, name)
        check_size(volume, size_bytes)
        if volume.size_bytes == size_bytes:  # no cycle, no verify ends for that
            return Growth(name, size_bytes, size_bytes)
        growth = await self.run(
            f"volume {name} grows",
            lambda: grow(group, find_volume(group, name), size_bytes),
        )
        self._log.info(
            "volume_grown",
            volume=name,
            before_bytes=growth.before_bytes,
            size_bytes=growth.size_bytes,
        )
        return growth
