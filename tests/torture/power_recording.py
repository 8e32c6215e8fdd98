"""What two daemons do to their disks, written down, with what they promised.

The daemons run on real file systems over disks that log each write and flush. Hosts
write, points are committed and judged, daemons are killed and started.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.support.cut_oracle import CutJudge, History, Op
from tests.support.sites import VolumeSpec, until
from tests.support.stamping_writers import Mix, StampingWriter
from tests.torture.bench import Bench
from tests.torture.logged_disk import FLUSH, Entry, LoggedDisks
from tests.torture.mounts import FileSystem, mounted
from tests.torture.placed_pair import Place, PlacedPair
from tests.torture.promises import Flushed, Promises, noting_writers, sector_counts
from tests.torture.recovered_sites import Prints, fingerprint

MIB = 1 << 20
DISK_BYTES = 32 * MIB
TRACK_BYTES = 4096
VOLUMES = [
    VolumeSpec("data", 3 * MIB + 512, {"track_size": "4KiB", "hot_regions_max": 16}),
    VolumeSpec(
        "log", MIB, {"track_size": "4KiB", "hot_regions_max": 16}, region_bytes=64 << 10
    ),
]
MIX = Mix(flush=0.06, fua=0.06)
SITES = ("primary", "remote")
CHANGES_PER_CUT = (5, 60)
POINTS_MIN = 3
KILL_EVERY_CUTS = 7


@dataclass
class Recording:
    """What was done to both disks, and what was promised meanwhile."""

    kind: FileSystem
    began: int
    """The moment from which on both file systems stood."""
    entries: list[Entry] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    flushed: list[Flushed] = field(default_factory=list)
    forced: list[tuple[int, int]] = field(default_factory=list)
    promised: list[tuple[int, int]] = field(default_factory=list)
    """(moment, number): from then on the remote has this point or a newer one."""
    points: dict[int, list[Prints]] = field(default_factory=dict)
    """Every point that was committed, volumes in order."""

    def promised_at(self, moment: int) -> int:
        return max((n for when, n in self.promised if when <= moment), default=0)

    def event_at(self, moment: int) -> int:
        return max((entry.event for entry in self.entries[:moment][-1:]), default=0)

    def boundaries(self, disk: str) -> list[int]:
        """Return the moments just before each flush of a disk, and the end."""
        found = [
            moment
            for moment, entry in enumerate(self.entries)
            if moment > self.began and entry.disk == disk and entry.offset == FLUSH
        ]
        return [*found, len(self.entries)]


class LoggedSites:
    """Both sites' file systems on logged disks, mounted."""

    def __init__(self, kind: FileSystem, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.history = History()
        self.disks = LoggedDisks(
            folder / "disks", dict.fromkeys(SITES, DISK_BYTES), self.history.now
        )
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.disks)
            for site in SITES:
                image = self.disks.path / site
                self.kind.make(image)
                stack.enter_context(mounted(self.kind, image, self.folder / site))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def make_pair(folder: Path) -> PlacedPair:
    return PlacedPair(
        folder / "pair",
        VOLUMES,
        primary=Place(folder / "primary"),
        remote=Place(folder / "remote"),
    )


async def record(bench: Bench, sites: LoggedSites, flushes: int) -> Recording:
    """Run both daemons until the disks have been flushed so often."""
    disks, history = sites.disks, sites.history
    recording = Recording(sites.kind, disks.moment())
    promises = Promises(history, disks.moment)
    with make_pair(sites.folder) as pair:
        live = _Live(bench, pair, promises, recording)
        await pair.start()
        async with live.writing():
            while (
                _flush_count(disks.entries) < flushes
                or len(recording.points) < POINTS_MIN
            ):
                await live.cut()
                if len(recording.points) % KILL_EVERY_CUTS == 0:
                    await live.kill(bench.random.choice(SITES))
    recording.entries = disks.entries
    recording.ops = history.ops
    recording.flushed, recording.forced = promises.flushed, promises.forced
    bench.say(
        f"{sites.kind.name}: recorded {len(disks.entries)} disk operations, "
        f"{_flush_count(disks.entries)} flushes, {len(history.ops)} host writes, "
        f"{len(recording.points)} points"
    )
    return recording


def _flush_count(entries: list[Entry]) -> int:
    return sum(entry.offset == FLUSH for entry in entries)


class _Live:
    """Hosts and cuts of the run that is recorded."""

    def __init__(
        self, bench: Bench, pair: PlacedPair, promises: Promises, recording: Recording
    ) -> None:
        self._bench = bench
        self._pair = pair
        self._promises = promises
        self._recording = recording
        self._judge = CutJudge(sector_counts(pair))
        self._writers: list[StampingWriter] = []

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        await self._connect()
        try:
            yield
            for writer in self._writers:
                await writer.stop()
        finally:
            for writer in self._writers:
                writer.abort()

    async def _connect(self) -> None:
        seed = self._bench.random.getrandbits(32)
        self._writers = await noting_writers(
            self._pair, self._promises, seed, count=2, mix=MIX
        )
        for writer in self._writers:
            writer.start()

    async def cut(self) -> None:
        wanted = self._bench.random.randint(*CHANGES_PER_CUT)
        goal = sum(writer.acked_count for writer in self._writers) + wanted
        await until(
            lambda: sum(writer.acked_count for writer in self._writers) >= goal,
            "host writes",
        )
        await self._pair.connected()
        answer = await self._pair.cut()
        self._recording.promised.append((self._promises.moment(), answer["number"]))
        await self._note_point()

    async def _note_point(self) -> None:
        """Judge the remote's newest point and keep its fingerprint."""
        point = self._pair.remote.group()["recovery_point"]
        if point is None or point["number"] in self._recording.points:
            return
        images = await self._pair.images(self._pair.remote, f"@{point['number']}")
        history = self._promises.history
        window = history.window(0, history.now(), point["cut_time"])
        self._judge.check(images, window, list(history.ops))
        self._recording.points[point["number"]] = [
            fingerprint(image, TRACK_BYTES) for image in images
        ]

    async def kill(self, site: str) -> None:
        if site == "remote":
            self._pair.remote.kill()
            await self._pair.remote.start()
        else:
            self._pair.primary.kill()
            for writer in self._writers:
                await writer.ended()
                writer.abort()
            self._promises.history.crash()
            await self._pair.primary.start()
            await self._connect()
        await self._note_point()
