"""The two daemons of a run: the product's own code on simulated machines.

What the daemons' `serve` does with one group is done here: state opened in a thread,
the group and its replicator, or the store, the receiving group and the listener. Only
NBD and the control socket are left out: hosts and operators call what these would.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from common.errors import FarshoreError
from common.replication.link import Link
from common.service.config_link import FlashCopyTable
from common.service.config_primary import PrimaryGroup
from common.service.config_remote import RemoteGroup
from common.service.config_roles import sending_group
from primary_site.group import ConsistencyGroup
from primary_site.opening import open_group
from primary_site.promptness import PROOF_BATCHES
from primary_site.replicator import Replicator
from primary_site.taking_over import prepare_sending
from remote_site.group import ReceivingGroup
from remote_site.group_disk import GroupDisk
from remote_site.listener import ReplicationListener
from remote_site.sending import preserving_files, sending_start
from remote_site.store import GroupStore, Point, StoreSettings
from remote_site.takeover import GroupTakeover
from tests.support.simulation.links import Network
from tests.support.simulation.loop import SimulatedLoop, World
from tests.support.simulation.machine import Machine, SimulatedThreads

GROUP = "orders"
STATE = "/state"
DEVICE_THREADS = 8
HISTORY_POINTS = 6
SENDING = f"{STATE}/{GROUP}/sending"


class Site:
    """A machine and the life of its daemon: started, killed, stopped, started again."""

    def __init__(self, world: World, name: str, network: Network) -> None:
        self.world = world
        self.name = name
        self.network = network
        self.machine = Machine(world, name)
        self.is_serving = False
        self.is_stopping = False
        self.start_error: str | None = None
        self.lives = 0
        self.thawed_at = 0.0
        self.lost_power = False
        """Since hosts last looked here."""
        self.deaths: Counter[str] = Counter()
        self.loop: SimulatedLoop
        self.group_loops: list[SimulatedLoop] = []
        """Of the same process, where groups have loops of their own."""
        for path in ("/devices", STATE):
            self.machine.files.make_directory(path)

    @property
    def is_alive(self) -> bool:
        return self.lives > 0 and not self.loop.is_dead

    def start(self) -> None:
        """Start the daemon; `is_serving` once it has recovered."""
        assert not self.is_alive
        # A failed fdatasync is as a power loss to what was not flushed.
        devices = self.machine.files.directories["/devices"]
        self.lost_power |= any(each.has_lost for each in devices.names.values())
        self.lives += 1
        self.loop = self.world.new_loop(f"{self.name}-{self.lives}")
        self.group_loops = []
        self.machine.loop = self.loop
        self.machine.is_up = True
        self.is_serving = self.is_stopping = False
        self.start_error = None
        self.world.note(f"{self.name} starts")
        self._call(self._serve())

    def die(self, *, power: bool) -> None:
        """Kill the daemon now, or cut its machine's power."""
        self.world.note(f"{self.name} {'loses power' if power else 'is killed'}")
        self.lost_power = self.lost_power or power
        was_alive = self.is_alive
        self.is_serving = self.is_stopping = False
        if was_alive:
            self.deaths["power" if power else "kill"] += 1
            for loop in self.loops:
                loop.kill()
            self._gone()
        if power:
            self.machine.is_up = False
            self.machine.after_power_loss()
        else:
            self.machine.after_kill()
        if was_alive:
            for loop in self.loops:
                self.network.died(loop, silently=power)

    def stop(self) -> None:
        """Stop the daemon in good order; it may be killed before it has."""
        if self.is_serving:
            self.world.note(f"{self.name} stops")
            self.is_serving, self.is_stopping = False, True
            self._call(self._stopped())

    def freeze(self, seconds: float) -> None:
        """SIGSTOP for a while."""
        if self.is_alive:
            self.thawed_at = self.world.now + seconds
            for loop in self.loops:
                loop.is_frozen = True
            self.world.after(seconds, _thaw, self.loops)

    @property
    def loops(self) -> list[SimulatedLoop]:
        """All loops of the process, its main one first."""
        return [self.loop, *self.group_loops]

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        self.world.call(self.loop, self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        loop = self.loop
        try:
            await work
        except FarshoreError as error:
            self.start_error = f"{type(error).__name__}: {error}"
            self.world.note(f"{self.name} ends: {self.start_error}")
            self.is_serving = False
            self._gone()
            self._ended()
        except Exception as error:  # noqa: BLE001 - told, with its cause
            if not loop.is_dead:
                self.world.problem(f"{self.name}: {error!r}", error)

    async def _stopped(self) -> None:
        self._gone()
        await self._close()
        self._gone()  # and with it the last of its threads
        self.world.note(f"{self.name} has stopped")
        self._ended()

    def _ended(self) -> None:
        for loop in self.loops:
            loop.kill()
        self.machine.after_kill()
        for loop in self.loops:
            self.network.died(loop, silently=False)

    def _threads(self, name: str, count: int) -> SimulatedThreads:
        return SimulatedThreads(self.machine, name, count)

    async def _serve(self) -> None:
        raise NotImplementedError

    async def _close(self) -> None:
        raise NotImplementedError

    def _gone(self) -> None:
        """Nothing outside may use the daemon's objects any more."""


def _thaw(loops: Sequence[SimulatedLoop]) -> None:
    for loop in loops:
        loop.is_frozen = False


class PrimarySite(Site):
    """The sending daemon; `on_open` is called before anything else happens in it."""

    def __init__(self, world: World, network: Network, config: PrimaryGroup) -> None:
        super().__init__(world, "amsterdam", network)
        self.config = config
        self.group: ConsistencyGroup | None = None
        self.replicator: Replicator | None = None
        self.on_open: Callable[[ConsistencyGroup, Replicator], None]
        self.on_gone: Callable[[], None] = lambda: None
        self.writes_at_once = False
        self._running: asyncio.Task[None] | None = None

    async def _serve(self) -> None:
        machine = self.machine
        threads = self._threads("state", 2)
        opened = await threads.run(
            open_group, machine.files, STATE, self.config, "primary.toml"
        )
        group = ConsistencyGroup(
            self.config,
            opened,
            machine.files,
            lambda name: self._threads(name, DEVICE_THREADS),
            threads,
            machine.clock,
        )
        replicator = Replicator(group, self.name, self._connect, machine.clock)
        if self.writes_at_once:
            for volume in group.volumes:
                for _ in range(PROOF_BATCHES):
                    volume.promptness.took_in_thread(0.0, 1)
        self.group, self.replicator = group, replicator
        self.on_open(group, replicator)
        self.is_serving = True
        self._running = asyncio.ensure_future(replicator.run())
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(self._running)

    async def _connect(self, address: str) -> Link:
        stream = await self.network.connect(self.loop, address)
        return Link(stream, self.machine.clock)

    async def _close(self) -> None:
        replicator, group = self.replicator, self.group
        assert replicator is not None
        assert group is not None
        assert self._running is not None
        replicator.stop()
        self._running.cancel()
        await asyncio.wait([self._running])
        await group.close()

    def _gone(self) -> None:
        self.on_gone()


async def _nobody(address: str) -> Link:
    """A remote without a link of its own: it is never connected."""
    del address
    link: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    return await link


class RemoteSite(Site):
    """The receiving daemon."""

    def __init__(self, world: World, network: Network, config: RemoteGroup) -> None:
        super().__init__(world, "dr", network)
        self.config = config
        self.store: GroupStore | None = None
        self.group: ReceivingGroup | None = None
        self.on_open: Callable[[GroupStore], None]
        self.settings = StoreSettings(
            group=GROUP,
            state_directory=f"{STATE}/{GROUP}",
            journal_directory=f"/journal/{GROUP}",
            devices={volume.name: volume.device for volume in config.volumes},
            peer=config.peer,
        )
        self.retained_count = 1
        """Points that stay at a commit: the newest."""
        self.every = 0
        """With it there is a history: of older points each so-manieth stays."""
        self.merges = 0
        self.threads: SimulatedThreads | None = None
        self.on_serving: Callable[[], None] = lambda: None
        self.on_gone: Callable[[], None] = lambda: None
        self.before_close: Callable[[], bool] = lambda: True
        """Ends what hosts do here; called again until it says that it has."""
        self._listener: ReplicationListener | None = None
        self.takeover: GroupTakeover | None = None
        self.taken_over: ConsistencyGroup | None = None
        """The group as it is sent from here, once hosts may write."""
        self.on_taken_over: Callable[[ConsistencyGroup], None] = lambda _: None
        self.on_hosts_gone: Callable[[], None] = lambda: None
        self.stop_hosts: Callable[[], bool] = lambda: True
        self._running: asyncio.Task[None] | None = None
        self._replicator: Replicator | None = None
        self._sending = sending_group(config).model_copy(
            update={"flashcopy": FlashCopyTable(directory="/flashcopy")}
        )

    def retain(self, points: Sequence[Point]) -> set[int]:
        """Keep the newest few, and some older ones: the store's rule of retention."""
        kept = {point.number for point in points[-self.retained_count :]}
        return kept | self.settled(points)

    def settled(self, points: Sequence[Point]) -> set[int]:
        """Those of them that stay for ever, or nearly: a run has few points."""
        if not self.every:
            return set()
        chosen = [point.number for point in points if point.number % self.every == 1]
        return set(chosen[-HISTORY_POINTS:])

    async def _serve(self) -> None:
        machine = self.machine
        count = min(2 * len(self.config.volumes) + 2, 16)
        self.threads = threads = self._threads("group", count)
        store = await GroupStore.open(
            machine.files,
            threads,
            self.settings,
            retain=self.retain,
            settled=self.settled,
        )
        self.store = store
        self._count_merges(store)
        self.on_open(store)
        group = ReceivingGroup(self.config, self.name, store, machine.clock)
        self.group = group
        if self.every:
            group.thinning.start(has_limit=False)
        self._listener = ReplicationListener({GROUP: group}, machine.clock)
        self.network.listeners[self.name] = self._listener, self.loop
        self.takeover = GroupTakeover(
            group, self._prepare_sending, self._begin_sending, machine.clock
        )
        if self.takeover.intent is not None:
            if self.takeover.intent.is_done:
                await self.takeover.serve_again()
            else:
                self.takeover.resume()
        self.is_serving = True
        self.on_serving()

    def _count_merges(self, store: Any) -> None:
        replace_merged = store._disk.merges.replace_merged

        def counted(*what: Any) -> bool:
            done: bool = replace_merged(*what)
            self.merges += done
            return done

        store._disk.merges.replace_merged = counted

    # -- once it takes over ------------------------------------------------------------

    def _prepare_sending(self, disk: GroupDisk) -> None:
        start = sending_start(disk, self._sending)
        prepare_sending(self.machine.files, SENDING, start)

    async def _begin_sending(self, receiving: ReceivingGroup) -> None:
        """As `SendingGroups.open` does, on this loop."""
        machine, disk = self.machine, receiving.store.disk
        files = preserving_files(machine.files, disk)
        threads = self._threads("sending", 2)
        opened = await threads.run(
            open_group, files, SENDING, self._sending, "remote.toml"
        )
        group = ConsistencyGroup(
            self._sending,
            opened,
            files,
            lambda name: self._threads(name, DEVICE_THREADS),
            threads,
            machine.clock,
        )
        self._replicator = Replicator(group, self.name, _nobody, machine.clock)
        self.taken_over = group
        self.on_taken_over(group)
        self._running = asyncio.ensure_future(self._replicator.run())

    async def _stop_sending(self) -> None:
        assert self.takeover is not None
        await self.takeover.stop()
        group, running, replicator = self.taken_over, self._running, self._replicator
        if group is None or running is None or replicator is None:
            return
        while not self.stop_hosts():
            await asyncio.sleep(0.01)
        replicator.stop()
        running.cancel()
        await asyncio.wait([running])
        await group.close()

    async def _close(self) -> None:
        assert self._listener is not None
        assert self.group is not None
        while not self.before_close():
            await asyncio.sleep(0.01)
        await self._listener.stop_accepting()
        await self.group.end_sessions()
        await self._listener.close()
        await self._stop_sending()
        await self.group.close()

    def _gone(self) -> None:
        self.network.listeners.pop(self.name, None)
        if self.taken_over is not None:
            self.taken_over = None
            self.on_hosts_gone()
        if not self.is_stopping:
            self.on_gone()
