"""Crash the sending site at every write and flush, recover, compare.

The site's own code (consistency group, volumes, region heat, start-up recovery, the
agreement with the remote) runs on a `CrashDisk`. The explorer plays the hosts and
the remote: it knows what each sector was ever asked to hold, what was flushed, what
the secondary volumes hold and which points the remote has. In every crash image:

I3  a flushed sector, not written since, holds what was flushed (but where a disk of
    larger sectors has trashed one, with what hosts had flushed around their write);
I4  every track that differs from the newest point, the remote's or the one this
    site's record names, is carried; an acked track is equal at both sites;
    no more regions are hot than `hot_regions_max`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.ports import Buffer, HostCommand, HostRequest
from common.replication.lineage import CycleName, ReceiverState
from common.replication.session_messages import Welcome
from common.service.config_primary import PrimaryGroup
from common.storage.flashcopy import Runs
from primary_site.changes import pages_of_tracks
from primary_site.cut_reader import CutReader, RelationEndedError
from primary_site.group import ConsistencyGroup, CutStarvedError
from primary_site.opening import OpenedGroup, open_group
from primary_site.promptness import PROOF_BATCHES
from primary_site.replicator import Replicator
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import Exploration, ViolationError
from tests.support.crash.region_log_explorer import small_areas
from tests.support.disk_in_memory import Lies

SECTOR = 512
HOT_REGIONS_MAX = 16
STEPS = 80
SIZES = {"data": 96 << 10, "log": (52 << 10) + 512}
TRACKS = {"data": 4096, "log": 8192}
REGIONS = {"data": 4096, "log": 8192}

CONFIG = PrimaryGroup.model_validate(
    {
        "name": "orders",
        "manual": True,
        "link": {
            "remotes": ["dr:7420"],
            "peer": "dr",
            "allow_plaintext_replication": True,
        },
        "flashcopy": {"directory": "/flashcopy"},
        "volume": [
            {
                "name": name,
                "device": f"/devices/{name}.img",
                "size": f"{size}B",
                "track_size": f"{TRACKS[name]}B",
                "region_size": f"{REGIONS[name]}B",
                "hot_regions_max": HOT_REGIONS_MAX,
            }
            for name, size in SIZES.items()
        ],
    }
)
STATE = "/state"


@dataclass
class SectorHistory:
    """What one sector was asked to hold: `contents[floor]` is surely durable."""

    contents: list[bytes] = field(default_factory=lambda: [bytes(SECTOR)])
    floor: int = 0
    replied: int = 0
    in_flight: bool = False


@dataclass
class Remote:
    """The other site: its secondary volumes and points; it never loses anything."""

    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    secondary: dict[str, bytearray] = field(
        default_factory=lambda: {name: bytearray(size) for name, size in SIZES.items()}
    )
    points: dict[bytes, dict[str, bytes]] = field(default_factory=dict)
    newest: tuple[int, bytes, int] | None = None
    relation_id: bytes = b"\1" * 16

    def new_relation(self) -> None:
        self.relation_id = next(self.ids).to_bytes(16, "big")

    def commit(self, number: int, cycle_id: bytes, cut_ns: int) -> None:
        self.points[cycle_id] = {n: bytes(d) for n, d in self.secondary.items()}
        self.newest = number, cycle_id, cut_ns
        self.new_relation()

    def welcome(self) -> Welcome:
        number, cycle_id, cut_ns = self.newest or (None, None, None)
        committed = CycleName(number, cycle_id) if number and cycle_id else None
        receiver = ReceiverState(
            given=b"s" * 16,
            committed=committed,
            relation_id=self.relation_id,
        )
        return Welcome(2, "dr", 1, b"t" * 16, b"s" * 16, receiver, cut_ns, cut_ns, 1)


class CutClock:
    """Tells the explorer of the instant of a cut: it is when the time is taken."""

    def __init__(self, on_cut: Callable[[], None]) -> None:
        self._on_cut = on_cut
        self._ns = 0

    def now_ns(self) -> int:
        self._ns += 1
        self._on_cut()
        return self._ns

    def monotonic(self) -> float:
        return 0.0


class ShuffledThreads:
    """The `Threads` port: jobs run one at a time, later, in any order.

    A job is atomic but for the crashes within it; between its end and `done`, and
    between two jobs, everything else may happen.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._jobs: list[tuple[Callable[[], Any], Callable[[Any, Any], None]]] = []
        self.is_dead = False

    def submit(self, job: Callable[[], Any], done: Callable[[Any, Any], None]) -> None:
        self._jobs.append((job, done))
        asyncio.get_running_loop().call_soon(self._turn, self._rng.choice((0, 1, 8)))

    def _turn(self, patience: int) -> None:
        loop = asyncio.get_running_loop()
        if self.is_dead:
            return
        if patience:
            loop.call_soon(self._turn, patience - 1)
            return
        job, done = self._jobs.pop(self._rng.randrange(len(self._jobs)))
        result = error = None
        try:
            result = job()
        except BaseException as failure:  # noqa: BLE001 - handed to the caller
            error = failure
        loop.call_soon(done, result, error)

    async def run(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        future = asyncio.get_running_loop().create_future()

        def done(result: Any, error: Any) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.submit(lambda: function(*args, **kwargs), done)
        return await future

    def close(self) -> None:
        assert not self._jobs, "closed with jobs under way"


class PrimaryExploration(Exploration):
    """One seeded life of the site, with hosts, cycles, crashes and starts."""

    COMPONENT = "primary"
    DEEP_SHARE = 0.01
    DEEP_IMAGES = 3
    RAISES = False

    def __init__(
        self, seed: int, *, images_per_step: int = 8, lies: Lies | None = None
    ) -> None:
        super().__init__(seed, images_per_step=images_per_step, lies=lies)
        self.points_committed = 0
        self.tracks_acked_at_recovery = 0
        self.remote = Remote()
        self.history = {
            name: [SectorHistory() for _ in range(size // SECTOR)]
            for name, size in SIZES.items()
        }
        self.newest = {name: bytearray(size) for name, size in SIZES.items()}
        files = self.new_disk(ignored=".target")
        files.make_directory("/devices")
        files.make_directory(STATE)
        self.watch(files)
        self.cut_image: dict[str, bytes] = {}
        self.full_target = False
        self.hot_regions_max = self.rng.choice((3, 4, 6, HOT_REGIONS_MAX))
        """Few, mostly: so that regions cool and are forgotten all the time."""
        self.last_written: dict[str, int] = {}
        self._stamp = itertools.count(1)
        self._generation = 0
        self._tending: asyncio.Task[None] | None = None
        self._destage: asyncio.Task[None] | None = None

    # -- the run -----------------------------------------------------------------------

    def explore(self) -> None:
        # Small areas, so that the log changes sides many times a run.
        with small_areas(), asyncio.Runner(loop_factory=SteppedLoop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        await self.start()
        for _ in range(STEPS):
            await self._step()
            self.raise_problem()
        await self._stop_cleanly()
        self.raise_problem()

    def _wrong(self, what: str) -> None:
        self.problem = self.problem or what

    async def start(self) -> None:
        opened = open_group(self.disk, STATE, CONFIG, "primary.toml")
        self.raise_problem()
        clock = CutClock(self._on_cut)
        self.threads: list[ShuffledThreads] = []
        self.group = ConsistencyGroup(
            CONFIG,
            opened,
            self.disk,
            lambda _: self._make_threads(),
            self._make_threads(),
            clock,
        )
        replicator = Replicator(self.group, "amsterdam", self._no_connect, clock)
        await replicator.cycles.reconcile(self.remote.welcome())
        self.replicator = replicator
        for volume in self.group.volumes:
            volume.heat._hot_regions_max = self.hot_regions_max
        if self.rng.random() < 0.5:  # half of the lives write on the loop
            for volume in self.group.volumes:
                for _ in range(PROOF_BATCHES):
                    volume.promptness.took_in_thread(0.0, 1)
        self.disk.inject = self._inject

    def _make_threads(self) -> ShuffledThreads:
        self.threads.append(ShuffledThreads(random.Random(self.rng.random())))
        return self.threads[-1]

    async def _no_connect(self, address: str) -> Any:
        raise AssertionError(address)

    async def _step(self) -> None:
        choices: list[tuple[int, Callable[[], Coroutine[Any, Any, None]]]] = [
            (30, self._write),
            (5, self._flush),
            (12, self._turn),
            (6, self._cool),
            (6, self._cut),
            (14, self._drain),
            (1, self._abandon),
            (1, self._reconnect),
            (1, self._crash),
            (1, self._toggle_full_target),
        ]
        (chosen,) = self.rng.choices(
            [action for _, action in choices], [weight for weight, _ in choices]
        )
        await chosen()
        if self.group.failed is not None:
            self._wrong(f"the group failed: {self.group.failed}")

    async def _turn(self) -> None:
        for _ in range(self.rng.randrange(1, 12)):
            await asyncio.sleep(0)

    async def _until(self, done: Callable[[], bool]) -> None:
        for _ in range(100_000):
            if done():
                return
            await asyncio.sleep(0)
        raise ViolationError("stuck")

    # -- hosts -------------------------------------------------------------------------

    async def _write(self) -> None:
        volume = self.rng.choice(self.group.volumes)
        sectors = self.history[volume.name]
        first = self.rng.randrange(len(sectors))
        place = self.rng.random()
        if place < 0.3:
            first = self._acked_sector(volume, first)
        elif place < 0.55:  # hosts come back to where they were
            first = self.last_written.get(volume.name, first)
        self.last_written[volume.name] = first
        count = min(self.rng.choice((1, 1, 2, 8, 8, 16, 40)), len(sectors) - first)
        touched = sectors[first : first + count]
        if any(sector.in_flight for sector in touched):
            return
        data = [(next(self._stamp).to_bytes(8, "big") * (SECTOR // 8)) for _ in touched]
        command = self.rng.choices(
            (HostCommand.WRITE, HostCommand.TRIM, HostCommand.WRITE_ZEROES), (8, 1, 1)
        )[0]
        if command != HostCommand.WRITE:
            data = [bytes(SECTOR)] * count
        newest = self.newest[volume.name]
        newest[first * SECTOR : (first + count) * SECTOR] = b"".join(data)
        for sector, content in zip(touched, data, strict=True):
            sector.contents.append(content)
            sector.in_flight = True
        request = HostRequest(
            command,
            first * SECTOR,
            count * SECTOR,
            b"".join(data) if command == HostCommand.WRITE else None,
            fua=self.rng.random() < 0.15,
        )
        volume.submit([request], self._if_alive(lambda: self._wrote(request, touched)))

    def _acked_sector(self, volume: Any, otherwise: int) -> int:
        """Return a sector that the remote has: what it has is to be sent again."""
        changes, track_sectors = volume.changes, TRACKS[volume.name] // SECTOR
        tracks = [
            track
            for track in range(volume.geometry.track_count)
            if changes.acked.test(track)
        ]
        if not tracks or changes.transferred is not None:
            return otherwise
        return self.rng.choice(tracks) * track_sectors

    def _wrote(self, request: HostRequest, touched: list[SectorHistory]) -> None:
        if request.error:
            self._wrong(f"a host write failed: {request.error}")
        for sector in touched:
            sector.in_flight = False
            sector.replied = len(sector.contents) - 1
            if request.fua:
                sector.floor = sector.replied
        if request.fua:
            self.promised()

    async def _flush(self) -> None:
        volume = self.rng.choice(self.group.volumes)
        replied = [(s, s.replied) for s in self.history[volume.name]]

        def flushed() -> None:
            for sector, index in replied:
                sector.floor = max(sector.floor, index)
            self.promised()

        volume.submit([HostRequest(HostCommand.FLUSH, 0, 0)], self._if_alive(flushed))

    def _if_alive(self, then: Callable[[], None]) -> Callable[[Any], None]:
        generation = self._generation

        def complete(_: Any) -> None:
            if generation == self._generation:
                then()

        return complete

    # -- cycles ------------------------------------------------------------------------

    def _on_cut(self) -> None:
        self.cut_image = {
            v.name: v.device.read(0, v.size_bytes) for v in self.group.volumes
        }

    async def _cut(self) -> None:
        if self.group.cut is not None or not self.group.has_changed():
            return
        with contextlib.suppress(CutStarvedError):
            await self.group.make_cut(None)
            self._destage = None
            if self.rng.random() < 0.4:  # else the device is busy until the commit
                self._destage = asyncio.ensure_future(self.group.destage())

    async def _drain(self) -> None:
        cut = self.group.cut
        if cut is None:
            return
        await self.group.settle_cut()
        try:
            for volume in self.group.volumes:
                todo = self._todo(volume.changes)
                self.rng.shuffle(todo)
                for run in todo[: self.rng.choice((1, 4, len(todo) + 1))]:
                    await self._send(volume, run)
            if all(not self._todo(v.changes) for v in self.group.volumes):
                await self._commit()
        except RelationEndedError:
            self.group.abandon_cycle()
            await self.group.discard_targets()

    @staticmethod
    def _todo(changes: Any) -> Runs:
        left = changes.pprc.copy()
        left.subtract(changes.acked)
        return list(left.runs(longest=3))

    async def _send(self, volume: Any, run: tuple[int, int]) -> None:
        standing = volume.preserver.standing()
        (read,) = await CutReader(volume, standing).read([run])
        offset, length = volume.geometry.byte_range(*run)
        data = bytes(length) if read.data is None else read.data
        if data != self.cut_image[volume.name][offset : offset + length]:
            self._wrong(f"{volume.name}: {run} was not read as at the cut")
        self.remote.secondary[volume.name][offset : offset + length] = data
        self.promised()
        volume.changes.ack(*run)
        volume.heat.dirty_acked_pages.update(pages_of_tracks(*run))

    async def _commit(self) -> None:
        cut = self.group.cut
        assert cut is not None
        await (self._destage or self.group.destage())
        for name, data in self.remote.secondary.items():
            if data != self.cut_image[name]:
                self._wrong(f"{name}: point {cut.number} is not the cut")
        self.remote.commit(cut.number, cut.cycle_id, cut.cut_ns)
        self.points_committed += 1
        self.promised()
        self.at_step("committed", str(cut.number))
        if self.rng.random() < 0.5:
            await self._cool()
        await self.group.complete_cycle(self.remote.relation_id)

    async def _abandon(self) -> None:
        if self.group.cut is not None:
            self.group.abandon_cycle()
            await self.group.discard_targets()

    async def _reconnect(self) -> None:
        if self.rng.random() < 0.3:
            self.remote.new_relation()
            self.promised()
        await self.replicator.cycles.reconcile(self.remote.welcome())

    async def _cool(self) -> None:
        if self._tending is None or self._tending.done():
            self._tending = asyncio.ensure_future(self.group.upkeep.tend())

    async def _toggle_full_target(self) -> None:
        self.full_target = not self.full_target and self.rng.random() < 0.3

    def _inject(self, operation: str, path: str) -> int | None:
        is_full = self.full_target and path.endswith(".target")
        return errno.ENOSPC if is_full and operation == "write" else None

    # -- crashes -----------------------------------------------------------------------

    def recover(self, disk: CrashDisk) -> None:
        opened = open_group(disk, STATE, CONFIG, "primary.toml")
        try:
            self._compare(opened)
        finally:
            for volume in opened.volumes:
                volume.device.close()
                volume.durable.close()

    def _compare(self, opened: OpenedGroup) -> None:
        bases = self._bases(opened)
        for volume in opened.volumes:
            data = volume.device.read(0, volume.geometry.size_bytes)
            self._check_sectors(volume.name, data)
            if len(volume.durable.log.hot) > HOT_REGIONS_MAX:
                raise ViolationError(f"{len(volume.durable.log.hot)} regions are hot")
            carried = volume.verdict.carried
            if not bases and carried.count < volume.geometry.track_count:
                raise ViolationError("no point, yet not all is carried")
            for base, cycle_id in bases.items():
                for track in _differing(volume, data, self.remote.points[cycle_id]):
                    if not carried.test(track):
                        raise ViolationError(
                            f"{volume.name}: track {track} differs from {base}"
                        )
            if opened.state.relation_id == self.remote.relation_id:
                self._check_acked(volume, data)

    def _bases(self, opened: OpenedGroup) -> dict[str, bytes]:
        bases = {}
        if self.remote.newest is not None:
            bases["the remote's newest point"] = self.remote.newest[1]
        if opened.state.committed_cycle_id:
            bases["the recorded point"] = opened.state.committed_cycle_id
        return bases

    def _check_acked(self, volume: Any, data: bytes) -> None:
        acked = volume.verdict.acked
        if not acked.count:
            return
        self.tracks_acked_at_recovery += acked.count
        for track in _differing(volume, data, self.remote.secondary):
            if acked.test(track):
                raise ViolationError(
                    f"{volume.name}: track {track} is acked, but differs"
                )

    def _check_sectors(self, name: str, data: bytes) -> None:
        newest, sectors = self.newest[name], self.history[name]
        if data == newest:
            return
        for number in _unequal(data, newest):
            sector = sectors[number]
            found = data[number * SECTOR : (number + 1) * SECTOR]
            if found in sector.contents[sector.floor :]:
                continue
            if self.is_clean_cut or not self._is_at_stake(sectors, number):
                raise ViolationError(f"{name}: sector {number} is not as flushed")

    def _is_at_stake(self, sectors: list[SectorHistory], number: int) -> bool:
        """Tell whether a power cut may trash a sector: a write to it, or beside it in
        the same sector of a disk of larger ones, was not flushed."""
        step = self.disk.sector_bytes // SECTOR
        first = number - number % step
        return any(
            sector.floor < len(sector.contents) - 1
            for sector in sectors[first : first + step]
        )

    async def _crash(self) -> None:
        """Lose power, or be killed, and go on from what is left."""
        self._generation += 1
        was = self.disk
        was.hook = None
        for threads in self.threads:
            threads.is_dead = True
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        self._tending = self._destage = None
        crashed = self.some_power_cut()
        if self.rng.random() < 0.4:
            crashed = was.after_kill()
        self.watch(crashed)
        for name in SIZES:
            self._adopt(name)
        self.promised()
        await self.start()

    def _adopt(self, name: str) -> None:
        """Take what the device holds now for the newest content of each sector."""
        path = f"/devices/{name}.img"
        if not self.disk.exists(path):
            return  # made anew, of zeroes
        inode = self.disk.inode(path)
        data = bytes(inode.data)
        self.newest[name][:] = data.ljust(SIZES[name], b"\0")
        per_sector = inode.sector_bytes // SECTOR
        unflushed = {
            sector * per_sector + i
            for sector in inode.versions
            for i in range(per_sector)
        }
        for number, sector in enumerate(self.history[name]):
            found = data[number * SECTOR : (number + 1) * SECTOR]
            kept = sector.contents[sector.floor :] if number in unflushed else []
            sector.contents = [*kept, found]
            sector.floor = 0
            sector.replied = len(sector.contents) - 1
            sector.in_flight = False

    async def _stop_cleanly(self) -> None:
        sectors = [s for history in self.history.values() for s in history]
        await self._until(lambda: not any(s.in_flight for s in sectors))
        if self._tending is not None:
            await self._tending
        if self._destage is not None:
            await self._destage
        await self.group.close()
        self.disk.hook = None
        self.is_clean_cut = True
        self.recover(self.disk)


def _unequal(data: Buffer, other: Buffer) -> list[int]:
    """Return the sectors in which two contents of one volume differ."""
    one = np.frombuffer(data, np.uint64).reshape(-1, SECTOR // 8)
    two = np.frombuffer(other, np.uint64).reshape(-1, SECTOR // 8)
    found: list[int] = np.flatnonzero((one != two).any(axis=1)).tolist()
    return found


def _differing(volume: Any, data: bytes, others: Any) -> list[int]:
    there, geometry = others[volume.name], volume.geometry
    if there == data:
        return []
    step = geometry.track_bytes
    return [
        track
        for track in range(geometry.track_count)
        if data[track * step : (track + 1) * step]
        != there[track * step : (track + 1) * step]
    ]


class SteppedLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only when nothing else is left to do."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            when = self._scheduled[0].when()  # type: ignore[attr-defined]
            self._now = max(self._now, when)
        super()._run_once()  # type: ignore[misc]
