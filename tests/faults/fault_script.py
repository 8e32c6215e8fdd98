"""One fixed script at both sites, and one fault at the n-th call to one of the disks.

The script: both start, hosts write, trim, zero and flush; a cut, written over while it
drains; another; both lose power; more of the same and a third cut; both stop in good
order and start again. A seed decides the order of events, so that the n-th call of one
run is that of the next. Product code throughout, on simulated machines.

What has to hold is in `_Rules` and in the oracle of the simulation, which judges every
point, start and reply.
"""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from common.errors import FarshoreError
from common.ports import HostCommand, HostRequest
from common.service.config_primary import PrimaryGroup
from primary_site.group import ConsistencyGroup
from primary_site.replicator import Replicator
from tests.faults.fault_rules import Fault, Kind, Rules
from tests.support.simulation.knobs import controlled, quiet_logs, remote_config
from tests.support.simulation.links import Network
from tests.support.simulation.loop import SimulatedLoop, StuckError, World
from tests.support.simulation.model import SECTOR, Flush, HostWrite, VolumeModel
from tests.support.simulation.oracle import Oracle
from tests.support.simulation.sites import GROUP, STATE, PrimarySite, RemoteSite, Site

SEED = 11
TRACK = 4096
SIZES = {"data": (8 * TRACK + 1536, TRACK, 2 * TRACK), "log": (4 * TRACK, TRACK, TRACK)}

SECONDS_MAX = 150.0
"""Of simulated time, for a script that takes two seconds without a fault."""

WAIT_SECONDS_MAX = 0.5
"""What a host may have to wait, whatever becomes of the remote or of a target: calls
to a disk take up to 0.03 s here, and a sender that is refused waits for seconds."""

SETTLE_SECONDS = 0.3
"""After the last commit the primary saves its bitmaps: that may fail too."""

PROMISED_MIN = 2
SITES = ("primary", "remote")
POLL_SECONDS = 0.002
RESTART_SECONDS = 0.4

PRIMARY = PrimaryGroup.model_validate(
    {
        "name": GROUP,
        "manual": True,
        "hold_max": "50ms",
        "hold_retries": 5,
        "resume_timeout": "30s",
        "link": {
            "remotes": ["dr:7420"],
            "peer": "dr",
            "allow_plaintext_replication": True,
            "compression": "off",
        },
        "flashcopy": {"directory": "/flashcopy"},
        "volume": [
            {
                "name": name,
                "device": f"/devices/{name}.img",
                "size": f"{size}B",
                "track_size": f"{track}B",
                "region_size": f"{region}B",
                "hot_regions_max": 16,
            }
            for name, (size, track, region) in SIZES.items()
        ],
    }
)


class GaveUpError(Exception):
    """The script cannot go on; what it met is among the problems."""


@dataclass(slots=True)
class _Asked:
    """A request of the host that is under way."""

    volume: str
    request: HostRequest
    asked_at: float
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did, and what did not hold."""

    problems: tuple[str, ...]
    calls: dict[str, list[tuple[str, str]]]
    """By site: (operation, path) of every call, in order."""
    hit: tuple[str, str] | None
    """The call that met the fault."""
    digest: str
    restarts: dict[str, int]
    alarms: dict[str, set[str]]
    commits: int
    points_compared: int
    seconds: float
    trace: tuple[str, ...]


class _Hosts:
    """What the oracle asks of hosts: the models of the volumes."""

    def __init__(self) -> None:
        self.models = {name: VolumeModel(name, s) for name, (s, _, _) in SIZES.items()}

    def grown(self, name: str, size_bytes: int) -> None:
        assert size_bytes == self.models[name].size_bytes, "nobody grows a volume here"


class Script:
    """One run."""

    def __init__(self, world: World, fault: Fault | None, *, at_once: bool) -> None:
        self.world = world
        self.network = Network(world)
        self.network.delay_seconds = 0.004
        self.primary = PrimarySite(world, self.network, PRIMARY)
        self.remote = RemoteSite(world, self.network, remote_config(SIZES))
        self.primary.writes_at_once = at_once
        self.network.is_up = self._is_up
        self.hosts = _Hosts()
        self.oracle = Oracle(world, self.primary, self.remote, self.hosts)  # type: ignore[arg-type]
        self.rules = Rules(world, fault)
        self.primary.on_open = self._primary_opened
        self.primary.on_gone = self._primary_gone
        self.remote.on_open = self.oracle.remote_opened
        self.calls: dict[str, list[tuple[str, str]]] = {}
        self.restarts = dict.fromkeys(SITES, 0)
        self.alarms: dict[str, set[str]] = {name: set() for name in SITES}
        self.is_over = False
        self._stamps = iter(range(1, 1 << 30))
        self._asked: list[_Asked] = []
        self._restarting: set[str] = set()
        self._is_stopping = False
        self._to_lose_power: Site | None = None
        self._promised = 0
        """Flushes and FUA that succeeded since a start after a failed flush."""
        self._has_applied = False
        for name, site in self.sites.items():
            self._watch(name, site)

    @property
    def sites(self) -> dict[str, Site]:
        return {"primary": self.primary, "remote": self.remote}

    def run(self) -> None:
        self.remote.start()
        self.primary.start()
        self.world.after(0.01, self._tick)
        self.world.call(self.world.new_loop("script"), self._play())
        self.world.run(lambda: self.is_over)

    # -- the fault ---------------------------------------------------------------------

    def _watch(self, name: str, site: Site) -> None:
        """Count the calls to a site's disk, and let the fault meet its own."""
        machine: Any = site.machine
        calls = self.calls[name] = []

        def before(operation: str, path: str) -> int | None:
            if machine._quiet:
                return None
            calls.append((operation, path))
            if site is self._to_lose_power and site is self.remote:
                self._watch_applying(operation, path)
            number = self.rules.meet(name, machine, len(calls), operation, path)
            if number is None:
                return None
            self._note_hit(name, operation, path)
            machine._note_failure(operation, path, number)
            if path.endswith(".new"):  # nothing relies on it before it has its name
                machine.failed_flush = ""
            return number

        machine._before = before
        machine._hook(machine.files)

        def after_power_loss() -> None:
            # All that was not flushed is lost, or for every other fault some of it.
            fate = "mixed" if self.rules.number % 2 else "lost"
            machine._go_on(machine.files.crash_image(self.world.rng, fate))

        machine.after_power_loss = after_power_loss

    def _note_hit(self, name: str, operation: str, path: str) -> None:
        if name != "primary" or operation != "datasync":
            return
        for asked in self._asked:
            waits = asked.request.fua or asked.request.command == HostCommand.FLUSH
            if waits and path == f"/devices/{asked.volume}.img":
                self.rules.must_fail.append(asked.request)

    # -- supervisors -------------------------------------------------------------------

    def _is_up(self, loop: SimulatedLoop) -> bool:
        name = "primary" if loop.name.startswith(self.primary.name) else "remote"
        return self.sites[name].machine.is_up

    def _primary_opened(self, group: ConsistencyGroup, replicator: Replicator) -> None:
        self.oracle.primary_opened(group, replicator)

    def _primary_gone(self) -> None:
        self._asked.clear()
        may_be_torn = self.primary.machine.has_failed_at("/devices")
        for model in self.hosts.models.values():
            model.connections_lost(may_be_torn=may_be_torn)

    def _tick(self) -> None:
        if self.is_over:
            return
        self.oracle.look_at_remote()
        for name, site in self.sites.items():
            self._look_after(name, site)
        self._note_alarms()
        if self._to_lose_power is self.primary and self._promised >= PROMISED_MIN:
            self._lose_power()
        for asked in self._asked:
            waited = self.world.now - asked.asked_at
            if waited > WAIT_SECONDS_MAX and not asked.is_late:
                asked.is_late = True
                self.rules.waited(asked.volume, waited)
        if self.world.now > SECONDS_MAX:
            waiting = "\n".join(loop.waiting() for loop in self.world.loops)
            self.world.problem(f"I11: not over after {SECONDS_MAX:g} s\n{waiting}")
        self.world.after(0.05, self._tick)

    def _look_after(self, name: str, site: Site) -> None:
        """Start again what has ended or failed, as an operator would."""
        if name in self._restarting or self._is_stopping:
            return
        if site.is_alive and not self._failure(name):
            return
        self._restarting.add(name)
        self.restarts[name] += 1
        self.rules.restarted(name, site.start_error, self._failure(name))
        self.world.after(RESTART_SECONDS, self._restart, name, site)

    def _failure(self, name: str) -> str:
        if name == "primary":
            group = self.primary.group
            found = self.primary.is_serving and group is not None and group.failed
        else:
            store = self.remote.store
            found = self.remote.is_serving and store is not None and store.failed
        return str(found) if found else ""

    def _restart(self, name: str, site: Site) -> None:
        if site.is_alive:
            self._die(site, power=False)
        self._start(site)
        if self.rules.has_lost_pages:
            self.rules.has_lost_pages = False
            self._to_lose_power, self._promised = site, 0
            self._has_applied = False
        self._restarting.discard(name)

    def _lose_power(self) -> None:
        """What a failed flush left in memory only, no start may have relied on.

        Not before something was promised since that start.
        """
        site = self._to_lose_power
        if (
            site is not None
            and site.is_alive
            and site.is_serving
            and not self._is_stopping
        ):
            self._to_lose_power = None
            self._die(site, power=True)
            self._start(site)

    def _watch_applying(self, operation: str, path: str) -> None:
        """Lose power once tracks are on the device: is what they replaced, too?"""
        if not path.startswith("/devices"):
            return
        if operation == "datasync" and self._has_applied:
            self._has_applied = False
            self.world.after(0.0, self._lose_power)
        self._has_applied |= operation in {"write", "write_zeroes"}

    def _die(self, site: Site, *, power: bool) -> None:
        if site is self.primary and power:
            self.oracle.lost_power = True
        site.die(power=power)

    def _start(self, site: Site) -> None:
        if site.is_alive:
            return
        devices = self.primary.machine.files.directories["/devices"].names.values()
        if site is self.primary and any(inode.has_lost for inode in devices):
            self.oracle.lost_power = True
        site.start()

    def _note_alarms(self) -> None:
        replicator, group = self.primary.replicator, self.remote.group
        if self.primary.is_serving and replicator is not None:
            self.alarms["primary"] |= {a.name for a in replicator.alarms.all()}
        if self.remote.is_serving and group is not None:
            self.alarms["remote"] |= set(group.alarms)

    # -- what hosts and operators do ---------------------------------------------------

    async def _play(self) -> None:
        try:
            await self._script()
        except GaveUpError as error:
            self.world.problem(f"the script: {error}")
        except Exception as error:  # noqa: BLE001 - told with its traceback
            self.world.problem(f"the script: {error!r}", error)

    async def _script(self) -> None:
        write, trim, zero = (
            HostCommand.WRITE,
            HostCommand.TRIM,
            HostCommand.WRITE_ZEROES,
        )
        await asyncio.gather(
            self._ask("data", write, 0, 24),
            self._ask("data", write, 30, 3, fua=True),
            self._ask("log", write, 1, 14),
        )
        await self._flush("data")
        await self._ask("data", trim, 8, 8)
        await self._cut_while(
            self._ask("data", write, 5, 14),
            self._ask("log", zero, 8, 16),
            self._ask("log", write, 0, 2, fua=True),
        )
        await asyncio.gather(self._flush("data"), self._flush("log"))
        await self._ask("data", write, 16, 8)
        await self._cut_while(
            self._ask("data", trim, 16, 20),
            self._ask("data", write, 0, 4, fua=True),
            self._ask("log", write, 20, 12),
        )
        await self._ask("data", write, 60, 7, fua=True)
        await self._ask("data", write, 61, 3, fua=True)  # its region is hot now
        for site in self.sites.values():
            self._die(site, power=True)
        for site in self.sites.values():
            self._start(site)
        await self._ask("log", write, 3, 9)
        await self._cut_while(self._ask("data", write, 2, 30, fua=True))
        await self._ask("log", zero, 0, 8)
        await self._flush("log")
        await self._stop()
        for site in self.sites.values():
            self._start(site)
        await self._ask("data", write, 40, 8)
        await self._cut()
        await asyncio.sleep(SETTLE_SECONDS)
        while self._restarting or self._to_lose_power or any(map(self._failure, SITES)):
            await asyncio.sleep(SETTLE_SECONDS)
            await self._ask("data", write, 10, 9, fua=True)
            await self._ask("log", write, 10, 9, fua=True)
            await self._cut()
        await self._end()

    async def _ask(
        self, volume: str, command: int, first: int, count: int, *, fua: bool = False
    ) -> None:
        """Ask until it succeeds: after an error again, after a kill again."""
        for _ in range(40):
            model = self.hosts.models[volume]
            stamp = next(self._stamps) if command == HostCommand.WRITE else 0
            group = await self._serving()
            write = model.submitted(stamp, first, count)
            request = HostRequest(
                command,
                first * SECTOR,
                count * SECTOR,
                write.data() if stamp else None,
                fua=fua,
            )
            replied = partial(self._replied, model, write)
            if await self._request(group, volume, request, replied):
                return
            await asyncio.sleep(0.2)
        raise GaveUpError(f"{volume}: command {command} never succeeds")

    def _replied(self, model: VolumeModel, write: HostWrite, done: HostRequest) -> None:
        self._promised += done.fua and not done.error
        model.replied(
            write, is_sure=not done.error, is_durable=done.fua and not done.error
        )

    def _flushed(self, model: VolumeModel, flush: Flush, done: HostRequest) -> None:
        if not done.error:
            model.flushed(flush)
            self._promised += 1

    async def _flush(self, volume: str) -> None:
        for _ in range(40):
            group = await self._serving()
            model = self.hosts.models[volume]
            flushed = partial(self._flushed, model, model.flush_submitted())
            request = HostRequest(HostCommand.FLUSH, 0, 0)
            if await self._request(group, volume, request, flushed):
                return
            await asyncio.sleep(0.2)
        raise GaveUpError(f"{volume}: no flush succeeds")

    async def _request(
        self,
        group: ConsistencyGroup,
        name: str,
        request: HostRequest,
        replied: Callable[[HostRequest], None],
    ) -> bool:
        """Submit and wait; True if it succeeded before the daemon was gone."""
        life, script = self.primary.lives, asyncio.get_running_loop()
        ended: asyncio.Future[None] = script.create_future()
        volume = next(v for v in group.volumes if v.name == name)
        had_failed = volume.failed is not None
        asked = _Asked(name, request, self.world.now)
        self._asked.append(asked)

        def complete(_: list[HostRequest]) -> None:
            if life == self.primary.lives and asked in self._asked:
                self._asked.remove(asked)
                replied(request)
                self.rules.replied(name, request, had_failed=had_failed)
                script.call_soon(ended.set_result, None)

        self.primary.loop.call_soon(volume.submit, [request], complete)
        while not ended.done():
            if asked not in self._asked:
                await asyncio.sleep(0)
                break
            await asyncio.sleep(POLL_SECONDS)
        return ended.done() and not request.error

    async def _serving(self) -> ConsistencyGroup:
        await self._until(lambda: self.primary.is_alive and self.primary.is_serving)
        group = self.primary.group
        assert group is not None
        return group

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # `SECONDS_MAX` ends the run
            await asyncio.sleep(POLL_SECONDS)

    async def _cut_while(self, *asks: Awaitable[None]) -> None:
        """Cut, have the host write over it while it drains, wait until it is safe."""
        cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def taken() -> None:
            if not cut.done():
                cut.set_result(None)

        self.world.awaited = "cut ", 0.0, taken
        cutting = asyncio.ensure_future(self._cut())
        await cut
        await asyncio.gather(*asks)
        await cutting

    async def _cut(self) -> None:
        """`farshore cut --wait`, asked again until a cut is safe."""
        for _ in range(40):
            replicator = await self._connected()
            life, tickets = self.primary.lives, list[Any]()
            self.world.call(self.primary.loop, _request_cut(replicator, tickets))
            await self._until(lambda: bool(tickets) or life != self.primary.lives)  # noqa: B023
            if tickets and tickets[0] is not None:
                safe = tickets[0].safe
                await self._until(lambda: safe.done() or life != self.primary.lives)  # noqa: B023
                if safe.done() and safe.exception() is None:
                    return
            await asyncio.sleep(0.1)
        raise GaveUpError("no cut becomes safe")

    async def _connected(self) -> Replicator:
        def is_connected() -> bool:
            replicator = self.primary.replicator
            return (
                self.primary.is_alive
                and self.primary.is_serving
                and replicator is not None
                and replicator.session is not None
                and not replicator.session.ended
            )

        await self._until(is_connected)
        assert self.primary.replicator is not None
        return self.primary.replicator

    async def _stop(self) -> None:
        """Both stop in good order."""
        await self._until(
            lambda: all(s.is_alive and s.is_serving for s in self.sites.values())
        )
        self._is_stopping = self.rules.is_stopping = True
        for name, site in self.sites.items():
            if self._failure(name):
                site.die(power=False)
            else:
                site.stop()
        await self._until(lambda: not any(s.is_alive for s in self.sites.values()))
        self._is_stopping = False

    async def _end(self) -> None:
        """The last cut is safe: the remote has what the primary has, and says so."""
        group = await self._serving()
        store = self.remote.store
        assert store is not None
        self.oracle.compare_points(store)
        newest = store.points[-1].number if store.points else 0
        cut = self.oracle.cuts.get(newest, {})
        for volume in group.volumes:
            if self.oracle.content(volume) != cut.get(volume.name):
                self.world.problem(f"I4: {volume.name} is not as in {newest}")
        await asyncio.sleep(0.1)
        replicator, receiving = self.primary.replicator, self.remote.group
        assert replicator is not None
        assert receiving is not None
        standing = [a.name for a in replicator.alarms.all()] + list(receiving.alarms)
        if standing:
            self.world.problem(f"all is well, but these alarms stand: {standing}")
        self._note_alarms()
        self.rules.judge(self.restarts, self.alarms)
        self.is_over = True


async def _request_cut(replicator: Replicator, tickets: list[Any]) -> None:
    try:
        tickets.append(await replicator.request_cut(None))
    except FarshoreError:
        tickets.append(None)


@contextmanager
def _uncollected() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def run(
    fault: Fault | None, *, at_once: bool = False, keep_trace: bool = False
) -> Outcome:
    """Run the script once, with that fault."""
    world = World(SEED, keep_trace=keep_trace)
    with _uncollected(), quiet_logs(world), controlled(world):
        script = Script(world, fault, at_once=at_once)
        try:
            script.run()
        except StuckError as error:
            world.problem(f"stuck: {error}")
        except Exception as error:  # noqa: BLE001 - told with its traceback
            world.problem(repr(error), error)
        digest, seconds = world.digest, world.now
        problems = tuple(told(*problem) for problem in world.problems)
        for site in script.sites.values():
            site.machine.end_jobs()
        world.close()
    return Outcome(
        problems=problems,
        calls=script.calls,
        hit=script.rules.hit,
        digest=digest,
        restarts=script.restarts,
        alarms=script.alarms,
        commits=script.oracle.commits,
        points_compared=script.oracle.points_compared,
        seconds=seconds,
        trace=tuple(world.trace) if keep_trace else (),
    )


def told(text: str, cause: BaseException | None) -> str:
    if cause is None:
        return text
    return f"{text}\n{''.join(traceback.format_exception(cause))}"


def kinds_of(operation: str, path: str) -> list[Kind]:
    """Return what can go wrong with a call of this kind."""
    if operation in {"read", "extents", "list"}:
        return [Kind.EIO]
    kinds = [Kind.EIO, Kind.ENOSPC]
    if operation == "write":
        kinds.append(Kind.SHORT)
    if operation in {"write", "create", "allocate"} and not path.startswith(STATE):
        kinds.append(Kind.FULL)
    return kinds
