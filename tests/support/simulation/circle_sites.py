"""A daemon of either kind, whole but for NBD, control socket and TLS.

`SiteGroups` is the product's: both roles, whatever the group's is now. Hosts are cut
off by the place where an NBD server would be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

from common.service.config_primary import PrimaryGroup
from common.service.config_remote import RemoteGroup
from primary_site.group import ConsistencyGroup
from primary_site.replicator import Replicator
from remote_site.group import ReceivingGroup
from remote_site.roles import SiteGroups
from remote_site.store import GroupStore
from tests.support.simulation.links import Network
from tests.support.simulation.loop import SimulatedLoop, World
from tests.support.simulation.machine import SimulatedThreads
from tests.support.simulation.sites import GROUP, STATE, Site

EXECUTOR_THREADS = 4


class Watcher(Protocol):
    """Told of what comes and goes at a site."""

    def opened(self, site: CircleSite, replicator: Replicator) -> None:
        """A group is sent from here; nothing else has happened in it yet."""

    def gone(self, site: CircleSite) -> None:
        """Nobody sends it from here any more."""

    def store_opened(self, site: CircleSite, store: GroupStore) -> None: ...

    def hosts_ended(self, site: CircleSite) -> bool:
        """Let hosts begin nothing more; tell whether all have their replies."""


class CircleSite(Site):
    """`config` says which kind of daemon it is: the role that the group begins in."""

    def __init__(
        self,
        world: World,
        name: str,
        network: Network,
        config: PrimaryGroup | RemoteGroup,
        watcher: Watcher,
    ) -> None:
        super().__init__(world, name, network)
        self.config = config
        self.groups: SiteGroups | None = None
        self.sent: Replicator | None = None
        """Of the group while it is sent from here."""
        self._watcher = watcher

    # -- what the process has ----------------------------------------------------------

    def start(self) -> None:
        self.groups, self.sent = None, None
        super().start()

    def new_group_loop(self, name: str) -> SimulatedLoop:
        loop = self.world.new_loop(f"{self.name}-{self.lives}/{name}")
        self._equip(loop)
        self.group_loops.append(loop)
        return loop

    def end_group_loop(self, loop: SimulatedLoop) -> None:
        loop.kill()
        self.group_loops.remove(loop)
        self.network.died(loop, silently=False)

    def _equip(self, loop: SimulatedLoop) -> None:
        loop.process = self
        loop.executor = SimulatedThreads(
            self.machine, "executor", EXECUTOR_THREADS, loop
        )

    @property
    def host_loop(self) -> SimulatedLoop:
        """Where requests of hosts are taken."""
        return self.group_loops[-1] if self.group_loops else self.loop

    # -- its life ----------------------------------------------------------------------

    async def _serve(self) -> None:
        self._equip(self.loop)
        files, clock = self.machine.files, self.machine.clock
        groups = SiteGroups(self.name, "site.toml", files, clock)
        self._watch(groups)
        self.groups = groups
        if isinstance(self.config, PrimaryGroup):
            await groups.check_sent(self.config, STATE)
            await groups.open_sent(self.config, STATE)
        else:
            await groups.open_received(self.config, f"{STATE}/groups/{GROUP}")
        nbd: Any = self
        groups.serve(nbd)
        self.network.listeners[self.name] = groups.receiving.listener, self.loop
        self.is_serving = True
        await groups.sending.watch()

    async def disconnect(self, export_name: str) -> None:
        """Stands for that of `NbdServer`: what is in flight is answered first."""
        del export_name
        while not self._watcher.hosts_ended(self):
            await asyncio.sleep(0.01)

    async def _close(self) -> None:
        groups = self.groups
        assert groups is not None
        await groups.receiving.stop()
        await self.disconnect(GROUP)
        await groups.stop()
        await groups.close()

    def _gone(self) -> None:
        self.network.listeners.pop(self.name, None)
        if not self.is_stopping:
            self._not_sent()

    def _not_sent(self) -> None:
        self.sent = None
        self._watcher.gone(self)

    # -- what the oracle is told -------------------------------------------------------

    def _watch(self, groups: Any) -> None:
        sending, receiving = groups.sending, groups.receiving
        open_sent, close_sent = sending.open, sending.close
        open_received, opened_store = receiving.open, receiving.opened_store

        async def opened(*what: Any, **how: Any) -> Any:
            hosted = await open_sent(*what, **how)
            self.sent = hosted.replicator
            self._watcher.opened(self, hosted.replicator)
            return hosted

        async def closed(name: str) -> None:
            self._not_sent()
            await close_sent(name)

        async def received(*what: Any) -> ReceivingGroup:
            group: ReceivingGroup = await open_received(*what)
            self._watcher.store_opened(self, group.store)
            return group

        @contextlib.asynccontextmanager
        async def stored(*what: Any) -> AsyncIterator[GroupStore]:
            async with opened_store(*what) as store:
                self._watcher.store_opened(self, store)
                yield store

        sending.open, sending.close = opened, closed
        receiving.open, receiving.opened_store = received, stored

    # -- what everybody sees -----------------------------------------------------------

    @property
    def received(self) -> ReceivingGroup | None:
        """The group as its store has it, also where it was taken over."""
        if self.groups is None or not self.is_alive:
            return None
        return self.groups.receiving.groups.get(GROUP)

    @property
    def sent_group(self) -> ConsistencyGroup | None:
        return None if self.sent is None else self.sent.group

    @property
    def role(self) -> str:
        """As an operator sees it: down, changing, sending, handing, superseded,
        taking over or receiving."""
        if not (self.is_alive and self.is_serving) or self.groups is None:
            return "down"
        if GROUP in self.groups._changing:
            return "changing"
        if GROUP in self.groups.sending.hosted and self.sent is not None:
            state = self.sent.group.state
            if state.gives_up:
                return "changing"
            if state.superseded is not None:
                return "superseded"
            return "handing" if state.handing is not None else "sending"
        group = self.received
        if group is None:
            return "changing"
        return "receiving" if group.store.takeover is None else "taking over"
