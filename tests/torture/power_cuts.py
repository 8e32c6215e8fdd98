"""Power cuts: both daemons on real file systems, replayed at every flush boundary.

First the daemons run, on ext4 and on XFS, over disks that write down what is done to
them; hosts write, points are committed and judged, daemons are killed and started.
Then, for each moment between two flushes, the disk is made as a power loss would
have left it (of the unflushed writes none, all, or some in any order, torn), the
file system is mounted, which recovers its journal, and the site's own recovery runs:

  * the remote has a point no older than promised, byte for byte one of the cuts;
  * the primary holds all that was flushed, nothing foreign, and remembers every
    track in which it differs from the points that matter.

Now and then both sites lose power at one moment, and the real daemons start, connect,
and agree on a new point that is the primary's volume byte for byte.
"""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.cut_oracle import History
from tests.torture.bench import Bench, Figures
from tests.torture.logged_disk import Replay
from tests.torture.mounts import FileSystem, file_systems, mounted, scratch
from tests.torture.power_recording import (
    DISK_BYTES,
    SITES,
    TRACK_BYTES,
    VOLUMES,
    LoggedSites,
    Recording,
    make_pair,
    record,
)
from tests.torture.promises import Promises, check_after_power_loss
from tests.torture.recovered_sites import (
    fingerprint,
    recover_primary,
    recover_remote,
)

NAMES = [volume.name for volume in VOLUMES]
FLUSHES_PER_SECOND = 1.2
"""How many flushes are recorded for each second that replaying may take."""

FLUSHES_MIN = 60
OVERTIME_SECONDS = 60.0
"""How much longer than its share the replay of every boundary may take."""

DAEMONS_EVERY = 60
"""Of the replayed moments, each so many-th is also one for the real daemons."""

RECORDING_NAME = "recording.pickle"
Bits = NDArray[np.bool_]


class PowerCutError(AssertionError):
    """What a power cut left breaks a promise."""


@dataclass(frozen=True)
class PowerCut:
    """One power loss: when, and what is left of each site's unflushed writes."""

    moment: int
    choices: dict[str, str]
    seed: int

    def __str__(self) -> str:
        left = ", ".join(f"{choice} at {site}" for site, choice in self.choices.items())
        return f"moment {self.moment}, unflushed writes: {left}, chance {self.seed}"


async def power_cuts(bench: Bench) -> Figures:
    """The part: record and replay on each kind of file system."""
    figures: Figures = {}
    kinds = file_systems(bench)
    for kind in kinds:
        with scratch(f"power-{kind.name}") as folder:
            found = await _one_kind(bench, kind, bench.seconds / len(kinds), folder)
        figures |= {f"{kind.name}_{name}": value for name, value in found.items()}
    for name in ("mounts", "recoveries", "daemon_recoveries", "flush_boundaries"):
        figures[name] = sum(int(str(figures[f"{kind.name}_{name}"])) for kind in kinds)
    return figures


async def _one_kind(
    bench: Bench, kind: FileSystem, seconds: float, folder: Path
) -> dict[str, int]:
    ends = bench.left() - seconds
    flushes = max(FLUSHES_MIN, int(seconds * FLUSHES_PER_SECOND))
    with LoggedSites(kind, folder) as sites:
        recording = await record(bench, sites, flushes)
    torture = Replayer(bench, recording, folder)
    try:
        await torture.run_until(ends)
    except BaseException:
        kept = bench.directory / RECORDING_NAME
        kept.write_bytes(pickle.dumps(recording))
        bench.again = f"--again {kept} --point '{torture.point()}'"
        raise
    return torture.figures()


async def again(bench: Bench, recording_path: Path, point: str) -> None:
    """Replay one power cut of a recording that was kept; raises what it breaks."""
    recording: Recording = pickle.loads(recording_path.read_bytes())
    moment, primary, remote, seed = point.split(",")
    choices = {"primary": primary, "remote": remote}
    cut = PowerCut(
        int(moment), {s: c for s, c in choices.items() if c != "-"}, int(seed)
    )
    with scratch("again") as folder:
        torture = Replayer(bench, recording, folder)
        bench.say(str(cut))
        await torture.cut(cut, with_daemons=len(cut.choices) == len(SITES))


class Replayer:
    """Power cuts of one recording. Each site is mounted where it was recorded."""

    def __init__(self, bench: Bench, recording: Recording, folder: Path) -> None:
        self._bench = bench
        self._recording = recording
        self._folder = folder
        self._pair = make_pair(folder)
        self._present: PowerCut | None = None
        self._replays: dict[str, Replay] = {}
        self._counts = dict.fromkeys(
            ("mounts", "recoveries", "daemon_recoveries", "flush_boundaries"), 0
        )
        self._counts["sectors_checked"] = self._counts["points_compared"] = 0

    def point(self) -> str:
        """Return what `again` takes to repeat the present power cut."""
        cut = self._present
        assert cut is not None
        sites = ",".join(cut.choices.get(site, "-") for site in SITES)
        return f"{cut.moment},{sites},{cut.seed}"

    def figures(self) -> dict[str, int]:
        return {
            **self._counts,
            "host_writes": len(self._recording.ops),
            "points": len(self._recording.points),
        }

    async def run_until(self, left: float) -> None:
        """Every boundary once, then more chances at each, until time is over."""
        chance = random.Random(self._bench.random.getrandbits(32))
        first_pass = True
        self._counts["flush_boundaries_recorded"] = sum(
            len(self._recording.boundaries(site)) for site in SITES
        )
        while first_pass or self._bench.left() > left:
            await self._pass(chance, left, exhaustive=first_pass)
            if first_pass:
                self._tell_what_time_left_out()
            first_pass = False

    def _tell_what_time_left_out(self) -> None:
        reached = self._counts["flush_boundaries"]
        recorded = self._counts["flush_boundaries_recorded"]
        if reached < recorded:
            kind = self._recording.kind.name
            self._bench.without(
                f"{recorded - reached} of {recorded} flush boundaries on {kind}, for "
                "want of time"
            )

    async def _pass(
        self, chance: random.Random, left: float, *, exhaustive: bool
    ) -> None:
        self._rewind()
        moments = sorted(
            (moment, site)
            for site in SITES
            for moment in self._recording.boundaries(site)
        )
        number_of_last = len(moments) - 1
        for number, (moment, site) in enumerate(moments):
            if self._bench.left() < left - exhaustive * OVERTIME_SECONDS:
                return
            for choice in ("none", "all") if exhaustive else ("some",):
                await self.cut(PowerCut(moment, {site: choice}, chance.getrandbits(32)))
            self._counts["flush_boundaries"] += exhaustive
            if number % DAEMONS_EVERY == 0 or number == number_of_last:
                choices = {s: chance.choice(("none", "all", "some")) for s in SITES}
                cut = PowerCut(moment, choices, chance.getrandbits(32))
                await self.cut(cut, with_daemons=True)
                self._bench.say(
                    f"{self._recording.kind.name}: {self._counts['mounts']} mounts, "
                    f"boundary {number + 1} of {len(moments)}"
                )

    def _rewind(self) -> None:
        entries = self._recording.entries
        self._replays = {site: Replay(site, DISK_BYTES, entries) for site in SITES}

    async def cut(self, cut: PowerCut, *, with_daemons: bool = False) -> None:
        """Lose power, mount what is left, recover, check."""
        self._present = cut
        if not self._replays:
            self._rewind()
        with contextlib.ExitStack() as stack:
            chance = random.Random(cut.seed)
            for site, choice in cut.choices.items():
                stack.enter_context(self._mounted(site, cut.moment, choice, chance))
            try:
                if with_daemons:
                    await self._check_daemons(cut)
                elif "primary" in cut.choices:
                    self._check_primary(cut.moment)
                else:
                    self._check_remote(cut.moment)
            except Exception as error:
                kind = self._recording.kind.name
                raise PowerCutError(f"{kind}, {cut}: {error!r}") from error
        self._counts["recoveries"] += len(cut.choices)

    @contextlib.contextmanager
    def _mounted(
        self, site: str, moment: int, choice: str, chance: random.Random
    ) -> Iterator[None]:
        replay = self._replays[site]
        replay.go_to(moment)
        path = self._folder / f"{site}.crashed"
        with (
            replay.image(path, choice, chance),
            mounted(self._recording.kind, path, self._folder / site),
        ):
            self._counts["mounts"] += 1
            yield

    def _check_remote(self, moment: int) -> None:
        found = recover_remote(str(self._pair.remote.config_path), NAMES)
        promised = self._recording.promised_at(moment)
        if (found.number or 0) < promised:
            raise PowerCutError(f"point {promised} was promised, not {found.number}")
        if found.number is not None:
            self._compare_point(found.number, found.images)

    def _compare_point(self, number: int, images: list[bytes]) -> None:
        expected = self._recording.points.get(number)
        if expected is None:
            raise PowerCutError(f"point {number} was never committed")
        for name, image, prints in zip(NAMES, images, expected, strict=True):
            wrong = np.flatnonzero(fingerprint(image, TRACK_BYTES) != prints)
            if len(wrong):
                raise PowerCutError(f"{name}@{number} is a mixture: tracks {wrong[:9]}")
        self._counts["points_compared"] += 1

    def _check_primary(self, moment: int) -> None:
        found = recover_primary(str(self._pair.primary.config_path))
        self._check_hosts(moment, found.images)
        for number in {found.committed_number, self._recording.promised_at(moment)}:
            if number:
                self._check_carried(number, found.images, found.carried)

    def _check_carried(
        self, number: int, images: list[bytes], carried: list[Bits]
    ) -> None:
        expected = self._recording.points.get(number)
        if expected is None:
            raise PowerCutError(f"the record names point {number}: never committed")
        for name, image, prints, bits in zip(
            NAMES, images, expected, carried, strict=True
        ):
            differs = fingerprint(image, TRACK_BYTES) != prints
            if (differs & ~bits).any():
                tracks = np.flatnonzero(differs & ~bits)
                raise PowerCutError(
                    f"{name}: {len(tracks)} tracks differ from point {number} and "
                    f"nothing says so, the first is {tracks[0]}"
                )

    def _check_hosts(self, moment: int, images: Sequence[bytes | bytearray]) -> None:
        recording = self._recording
        promises = Promises(History())
        promises.flushed, promises.forced = recording.flushed, recording.forced
        durable = promises.durable(moment, recording.ops)
        event = recording.event_at(moment)
        for volume, image in enumerate(images):
            self._counts["sectors_checked"] += check_after_power_loss(
                image, volume, recording.ops, durable, event
            )

    async def _check_daemons(self, cut: PowerCut) -> None:
        """Start both real daemons; the next point has to be exact."""
        pair = self._pair
        try:
            await pair.remote.start()
            point = pair.remote.group()["recovery_point"]
            number = 0 if point is None else point["number"]
            if number < self._recording.promised_at(cut.moment):
                raise PowerCutError(f"a promised point is gone, {number} is there")
            await pair.primary.start()
            await pair.connected()
            self._check_hosts(cut.moment, await pair.images(pair.primary))
            await pair.cut()
            host = await pair.images(pair.primary)
            if await pair.images(pair.remote) != host:
                raise PowerCutError("the new point is not the primary's volumes")
        finally:
            for daemon in pair.daemons:
                daemon.reap()
        self._counts["daemon_recoveries"] += 1
