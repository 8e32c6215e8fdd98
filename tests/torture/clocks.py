"""Clocks that jump, and processes that sleep.

The wall clocks of both daemons jump by a day, forwards and backwards, and by a
second, each on its own (libfaketime; the monotonic clock is left alone): cuts by
`interval` come neither in bursts nor not at all, and their numbers and contents are
right. Then both start in time namespaces in which the monotonic clock has another
origin each time, earlier than before too, as after a reboot. Then SIGSTOP of either
daemon, and of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.cut_oracle import Window
from tests.support.daemon import DIE_WITH_PARENT
from tests.support.endurance import Endurance
from tests.support.sites import VolumeSpec
from tests.support.stamping_writers import Mix
from tests.torture.bench import Bench, Figures
from tests.torture.placed_pair import Place, PlacedDaemon, PlacedPair

MIB = 1 << 20
VOLUMES = [
    VolumeSpec("data", 6 * MIB + 512, {"track_size": "4KiB", "hot_regions_max": 16}),
    VolumeSpec("log", 2 * MIB, {"track_size": "4KiB", "hot_regions_max": 16}),
]
MIX = Mix(flush=0.05)
DAY = 86400
JUMPS = (DAY, -40 * 365 * DAY, 0, -DAY, 1, -1, 3600, 0)
"""In seconds from the true time: where the clocks are put, one after another."""

INTERVAL_SECONDS = 1.0
WATCHED_SECONDS = 5.0
CACHE_SECONDS = 1
"""How long libfaketime may go on with what it last read."""

CUTS_MIN = 1
CUTS_MAX = 10
"""Of five seconds with a cut a second, after the jump took effect: no stall, no burst
of cuts for a day that never was."""

WALL_CLOCK_SHARE = 0.4
"""Of the part's time: then no further jump is tried."""

ORIGINS = (10_000_000, 100, 5_000_000)
STOP_SECONDS_MAX = 30.0
STOP_SHARE = 6


class EnduranceOfClocks(Endurance):
    """Judges points without asking the daemons what time it is."""

    _floor = 0

    async def check_next_cut_is_exact(self) -> dict[str, Any]:
        before = self.history.now()
        point = await super().check_next_cut_is_exact()
        self._floor = before
        return point

    async def host_lost_primary(self) -> None:
        await super().host_lost_primary()
        # What was in flight may be in or not, whatever is in beside it: only points
        # of cuts after this are judged.
        self._floor = self.history.now()

    async def _judge(self, point: dict[str, Any], images: list[bytearray]) -> None:
        # A newer point holds all that was over when the last exact one was asked for.
        window = Window(self._floor, self.history.now())
        self._judged = point["number"]
        ops = list(self.history.ops)
        await asyncio.to_thread(self._point_judge.check, images, window, ops)


async def clocks(bench: Bench) -> Figures:
    """The part: wall clocks, then origins of monotonic clocks, then SIGSTOP."""
    figures: Figures = {}
    if bench.has("faketime", what="jumps of the wall clock"):
        figures |= await _wall_clocks(bench)
    if bench.has("unshare", "nsenter", what="other origins of the monotonic clock"):
        figures |= await _origins(bench)
    return figures | await _stops(bench)


@contextlib.asynccontextmanager
async def _running(
    bench: Bench,
    name: str,
    group: dict[str, object],
    primary: Place | None = None,
    remote: Place | None = None,
) -> AsyncIterator[tuple[PlacedPair, EnduranceOfClocks]]:
    with PlacedPair(
        bench.directory / name, VOLUMES, primary=primary, remote=remote, group=group
    ) as pair:
        await pair.start()
        seed = bench.random.getrandbits(32)
        endurance = EnduranceOfClocks(pair, seed, writers=1, mix=MIX)
        async with endurance.under_load():
            await endurance.check_next_cut_is_exact()
            yield pair, endurance


# -- the wall clock --------------------------------------------------------------------


class WallClock:
    """One daemon's clock, set by a file that libfaketime reads."""

    def __init__(self, file: Path, library: str) -> None:
        self._file = file
        self.place = Place(
            prefix=[
                "env",
                f"LD_PRELOAD={library}",
                f"FAKETIME_TIMESTAMP_FILE={file}",
                f"FAKETIME_CACHE_DURATION={CACHE_SECONDS}",
                "FAKETIME_DONT_FAKE_MONOTONIC=1",
                "DONT_FAKE_MONOTONIC=1",
                "NO_FAKE_STAT=1",
            ]
        )
        self.put(0)

    def put(self, offset_seconds: int) -> None:
        """Put the clock off the true time by so much."""
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{offset_seconds:+d}\n")
        beside.replace(self._file)


def _library() -> str:
    """Return what `faketime` preloads into programs with threads."""
    command = ["faketime", "-m", "-f", "+0", "env"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = [x for x in found.stdout.splitlines() if x.startswith("LD_PRELOAD=")]
    return line.partition("=")[2]


async def _wall_clocks(bench: Bench) -> Figures:
    library = _library()
    folder = bench.directory
    here = WallClock(folder / "primary.clock", library)
    there = WallClock(folder / "remote.clock", library)
    group: dict[str, object] = {"interval": f"{INTERVAL_SECONDS:g}s"}
    jumps, farthest, fewest, most = 0, 0, CUTS_MAX, 0
    async with _running(bench, "wall", group, here.place, there.place) as found:
        pair, endurance = found
        for offset in JUMPS:
            if jumps and bench.spent() > bench.seconds * WALL_CLOCK_SHARE:
                break
            other = bench.random.choice((0, offset, -offset))
            here.put(offset)
            there.put(other)
            jumps += 2
            farthest = max(farthest, abs(offset))
            await asyncio.sleep(2 * CACHE_SECONDS)  # until both have read it
            before = len(endurance.cycles())
            await _host_writes_for(endurance, WATCHED_SECONDS)
            cuts = len(endurance.cycles()) - before
            bench.say(f"wall clocks at {offset:+d} s, {other:+d} s: {cuts} cuts")
            assert CUTS_MIN <= cuts <= CUTS_MAX, f"{cuts} cuts in {WATCHED_SECONDS} s"
            fewest, most = min(fewest, cuts), max(most, cuts)
            _check_is_off(pair, offset)
            await endurance.judge_newest_point()
            await endurance.check_next_cut_is_exact()
        await _restart(pair, endurance, -DAY, here)
        await endurance.check_next_cut_is_exact()
    return {
        "wall_clock_by": "libfaketime",
        "wall_clock_jumps": jumps,
        "wall_clock_jump_days_max": farthest // DAY,
        "cuts_in_5_s_fewest": fewest,
        "cuts_in_5_s_most": most,
    }


def _check_is_off(pair: PlacedPair, offset: int) -> None:
    """Nothing was shown if the daemon's clock did not jump."""
    point = pair.remote.group()["recovery_point"]
    told = datetime.fromisoformat(point["cut_time"])
    off = (told - datetime.now(UTC)).total_seconds() - offset
    assert abs(off) < WATCHED_SECONDS * 2, f"the clock is {off:.0f} s off what was set"


async def _restart(
    pair: PlacedPair, endurance: EnduranceOfClocks, offset: int, clock: WallClock
) -> None:
    """Start the primary a day before it was killed."""
    pair.primary.kill()
    await endurance.host_lost_primary()
    clock.put(offset)
    await pair.primary.start()
    await endurance.connect_writers()


async def _host_writes_for(endurance: Endurance, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while loop.time() < ends:
        await endurance.progress(10)
        await asyncio.sleep(0.05)


# -- the monotonic clock ---------------------------------------------------------------


@contextlib.contextmanager
def _time_namespace(origin_seconds: int) -> Iterator[list[str]]:
    """Give words that start a command where the monotonic clock is ahead by so much."""
    offsets = ["--monotonic", str(origin_seconds), "--boottime", str(origin_seconds)]
    command = ["unshare", "--time", *offsets, "--fork", "--kill-child"]
    command += ["--", "sh", "-c", "echo ready; exec sleep infinity"]
    holder = subprocess.Popen([*DIE_WITH_PARENT, *command], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n", "unshare --time failed"
        yield ["nsenter", f"--time=/proc/{holder.pid}/ns/time_for_children", "--"]
    finally:
        holder.kill()
        holder.wait()


async def _origins(bench: Bench) -> Figures:
    with contextlib.ExitStack() as stack:
        try:
            places = [stack.enter_context(_time_namespace(o)) for o in ORIGINS]
            subprocess.run([*places[0], "true"], check=True, capture_output=True)
        except (AssertionError, subprocess.CalledProcessError):
            bench.without("other origins of the monotonic clock (no time namespaces)")
            return {}
        async with _running(bench, "origins", {"manual": True}) as (pair, endurance):
            for origin, prefix in zip(ORIGINS, places, strict=True):
                for daemon in pair.daemons:
                    assert isinstance(daemon, PlacedDaemon)
                    daemon.place.prefix = prefix
                pair.primary.kill()
                pair.remote.kill()
                await endurance.host_lost_primary()
                await pair.remote.start()
                await pair.primary.start()
                await endurance.judge_host_volumes()
                await endurance.connect_writers()
                await endurance.progress(50)
                await endurance.check_next_cut_is_exact()
                bench.say(f"monotonic clocks ahead by {origin} s: the cut is exact")
    return {"monotonic_origins": len(ORIGINS)}


# -- sleep -----------------------------------------------------------------------------


async def _stops(bench: Bench) -> Figures:
    seconds = min(STOP_SECONDS_MAX, bench.seconds / STOP_SHARE)
    stops = 0
    async with _running(bench, "stops", {"manual": True}) as (pair, endurance):
        for names in (("remote",), ("primary",), ("primary", "remote")):
            endurance.go_on_cutting()
            await endurance.progress(100)
            stopped = [pair.primary if n == "primary" else pair.remote for n in names]
            for daemon in stopped:
                daemon.pause()
            try:
                if "primary" in names:
                    await asyncio.sleep(seconds)
                else:
                    await _host_writes_for(endurance, seconds)
            finally:
                for daemon in stopped:
                    daemon.resume()
            await endurance.progress(50)
            await pair.connected()
            await endurance.judge_newest_point()
            await endurance.check_next_cut_is_exact()
            stops += len(names)
            bench.say(f"SIGSTOP of {' and '.join(names)} for {seconds:.0f} s: exact")
    return {"stops": stops, "stop_seconds": round(seconds, 1)}
