"""File systems shut down beneath the daemons: what was not synced is gone.

The kernel's own emergency stop (`xfs_io -x -c shutdown`) takes a file system away in
the middle of the load, journal and page cache as they are. The daemon meets EIO, is
killed, the file system is mounted again, which recovers its journal, and the daemon
starts. At one site, the other, or both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.support.cut_oracle import CutJudge
from tests.support.endurance import Endurance
from tests.support.sites import VolumeSpec
from tests.support.stamping_writers import Mix
from tests.torture.bench import Bench, Figures
from tests.torture.mounts import FileSystem, file_systems, run, scratch, unmount
from tests.torture.placed_pair import Place, PlacedDaemon, PlacedPair
from tests.torture.promises import (
    Promises,
    check_after_power_loss,
    forget_what_power_took,
    noting_writers,
    sector_counts,
)

MIB = 1 << 20
DISK_BYTES = 96 * MIB
VOLUMES = [
    VolumeSpec("data", 6 * MIB + 512, {"track_size": "4KiB", "hot_regions_max": 16}),
    VolumeSpec(
        "log",
        2 * MIB,
        {"track_size": "4KiB", "hot_regions_max": 16},
        region_bytes=256 << 10,
    ),
]
MIX = Mix(flush=0.05, fua=0.05)
SITES = ("primary", "remote")
CHANGES_PER_ROUND = (10, 300)
PHASE_SECONDS_MAX = 0.1


class Disk:
    """A file system in a file, mounted at `folder`."""

    def __init__(self, kind: FileSystem, image: Path, folder: Path) -> None:
        self.kind = kind
        self.image = image
        self.folder = folder
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        kind.make(image)
        self.mount()

    def mount(self) -> None:
        self.kind.mount(self.image, self.folder)

    def shut_down(self) -> None:
        run("xfs_io", "-x", "-c", "shutdown", self.folder)

    def unmount(self) -> None:
        unmount(self.folder)


class EnduranceOfPowerLoss(Endurance):
    """Knows, besides, what was promised to be durable."""

    def __init__(self, pair: PlacedPair, seed: int) -> None:
        super().__init__(pair, seed, writers=2, mix=MIX)
        self.promises = Promises(self.history)
        self.sectors_checked = 0

    async def connect_writers(self) -> None:
        self._seed += 1
        self._writers = await noting_writers(
            self.pair,
            self.promises,
            self._seed,
            count=self._writer_count,
            mix=self._mix,
        )
        for writer in self._writers:
            writer.start()

    async def check_hosts_after_power_loss(self) -> None:
        """What was flushed is there; then the judges learn what may be gone."""
        ops = self.history.ops
        durable = self.promises.durable(0, ops)
        images = await self.pair.images(self.pair.primary)
        for volume, image in enumerate(images):
            self.sectors_checked += check_after_power_loss(
                image, volume, ops, durable, self.history.now()
            )
        forget_what_power_took(self.history, durable)
        counts = sector_counts(self.pair)
        self._point_judge, self._host_judge = CutJudge(counts), CutJudge(counts)


async def shutdowns(bench: Bench) -> Figures:
    """The part: rounds on each kind of file system."""
    figures: Figures = {}
    kinds = file_systems(bench)
    for kind in kinds:
        with scratch(f"shutdown-{kind.name}") as folder:
            ends = bench.left() - bench.seconds / len(kinds)
            found = await _rounds(bench, kind, folder, ends)
        figures |= {f"{kind.name}_{name}": value for name, value in found.items()}
    for name in ("rounds", "mounts", "points_judged"):
        figures[name] = sum(int(str(figures[f"{kind.name}_{name}"])) for kind in kinds)
    return figures


@contextlib.contextmanager
def both_disks(kind: FileSystem, folder: Path) -> Iterator[dict[str, Disk]]:
    with contextlib.ExitStack() as stack:
        disks = {}
        for site in SITES:
            disks[site] = Disk(kind, folder / f"{site}.img", folder / site)
            stack.callback(disks[site].unmount)
        yield disks


async def _rounds(
    bench: Bench, kind: FileSystem, folder: Path, ends: float
) -> dict[str, int]:
    chance = bench.random
    rounds = dict.fromkeys((*SITES, "both"), 0)
    judged = 0
    with (
        both_disks(kind, folder) as disks,
        PlacedPair(
            bench.directory / f"pair-{kind.name}",
            VOLUMES,
            primary=Place(folder / "primary"),
            remote=Place(folder / "remote"),
        ) as pair,
    ):
        await pair.start()
        endurance = EnduranceOfPowerLoss(pair, chance.getrandbits(32))
        async with endurance.under_load():
            await endurance.check_next_cut_is_exact()
            while bench.left() > ends:
                which = min(rounds, key=lambda each: rounds[each])
                sites = SITES if which == "both" else (which,)
                endurance.go_on_cutting()
                await endurance.progress(chance.randint(*CHANGES_PER_ROUND))
                await asyncio.sleep(chance.uniform(0, PHASE_SECONDS_MAX))
                await _lose_power(pair, endurance, [disks[site] for site in sites])
                await endurance.check_next_cut_is_exact()
                rounds[which] += 1
                judged += 2
                bench.say(f"{kind.name}: {sum(rounds.values())} rounds, last: {which}")
    return {
        "rounds": sum(rounds.values()),
        **{f"rounds_{which}": count for which, count in rounds.items()},
        "mounts": sum(rounds.values()) + rounds["both"],
        "points_judged": judged,
        "sectors_checked": endurance.sectors_checked,
    }


async def _lose_power(
    pair: PlacedPair, endurance: EnduranceOfPowerLoss, disks: list[Disk]
) -> None:
    """Shut the disks down, end their daemons, bring everything back and check it."""
    daemons: list[PlacedDaemon] = []
    for disk in disks:
        disk.shut_down()
        daemons.append(pair.primary if disk.folder.name == "primary" else pair.remote)
    for daemon in daemons:
        daemon.kill()
    lost_hosts = pair.primary in daemons
    if lost_hosts:
        await endurance.host_lost_primary()
    for disk in disks:
        disk.unmount()
        disk.mount()
    for daemon in reversed(daemons):
        await daemon.start()
    await endurance.judge_newest_point()
    if lost_hosts:
        await endurance.check_hosts_after_power_loss()
        await endurance.connect_writers()
    await endurance.progress(20)
