"""What a daemon takes of its process, on simulated machines: threads, loops, dialling.

`SiteGroups` and what it composes are the product's own, to the last line; what they
find in place of the operating system's is here, and belongs to the process whose loop
runs at that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from common.ports import Clock
from common.replication.credentials import Credentials
from common.replication.link import Link
from common.service.config_primary import PrimaryGroup
from common.service.config_remote import RemoteGroup
from common.service.config_roles import sending_group
from primary_site import hosted_group, sending_groups
from remote_site import receiving_groups, sending
from tests.support.simulation.loop import SimulatedLoop
from tests.support.simulation.machine import SimulatedThreads

if TYPE_CHECKING:
    from tests.support.simulation.circle_sites import CircleSite

DEVICE_THREADS = 8
REGION_BYTES = 8 << 10

T = TypeVar("T")


def here() -> CircleSite:
    """Return the site whose process runs now."""
    loop: Any = asyncio.get_running_loop()
    site: CircleSite = loop.process
    return site


def threads(name: str, count: int = DEVICE_THREADS) -> SimulatedThreads:
    """Stand for `WorkerThreads`; who makes them is told of the ends of jobs."""
    loop: Any = asyncio.get_running_loop()
    return SimulatedThreads(here().machine, name, count, loop)


class SimulatedLoopThread:
    """Stands for `LoopThread`: another loop of the same process."""

    def __init__(self, name: str, make_loop: Callable[[], Any]) -> None:
        del make_loop
        self._site = here()
        self.loop: SimulatedLoop = self._site.new_group_loop(name)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there and await its result; cancelling reaches it."""
        asked: Any = asyncio.run_coroutine_threadsafe(work, self.loop)
        return await asyncio.wrap_future(asked)

    async def close(self, seconds: float) -> bool:
        """Cancel what is left there, and end the loop."""
        del seconds
        await self.run(self._cancel_rest())
        self._site.end_group_loop(self.loop)
        return True

    async def _cancel_rest(self) -> None:
        rest = self.loop.others()
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


class SimulatedDialer:
    """Stands for `Dialer`, in plain text."""

    credentials: Credentials | None = None
    peer_certificate = None

    def __init__(
        self, peer: str, credentials: Credentials | None, clock: Clock
    ) -> None:
        del peer, credentials
        self._clock = clock

    async def connect(self, address: str) -> Link:
        loop: Any = asyncio.get_running_loop()
        stream = await here().network.connect(loop, address)
        return Link(stream, self._clock)


def _sending_group(group: RemoteGroup) -> PrimaryGroup:
    """As the product does, but with regions that tiny volumes have several of."""
    config = sending_group(group)
    volumes = tuple(
        volume.model_copy(update={"region_bytes": REGION_BYTES, "hot_regions_max": 16})
        for volume in config.volumes
    )
    return config.model_copy(update={"volumes": volumes})


STAND_INS: list[tuple[Any, str, Any]] = [
    (hosted_group, "LoopThread", SimulatedLoopThread),
    (sending_groups, "make_threads", threads),
    (sending_groups, "Dialer", SimulatedDialer),
    (receiving_groups, "WorkerThreads", threads),
    (sending, "sending_group", _sending_group),
]
"""Module, name, and what stands for it in a run of whole daemons."""
