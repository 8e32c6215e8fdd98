"""SIGKILL on entry of the n-th system call, n by n, at either daemon.

strace counts the calls of one kind in each thread and kills the process as one of
them makes its n-th: of a daemon that runs, with hosts that write and cuts that are
taken, or of one that has just been killed and starts, in the middle of its recovery.
After each kill the daemon starts again; then no promised point may be gone, the
point is one instant of the group, no acknowledged write is lost, and the next cut
is exact.
"""

from __future__ import annotations

import asyncio
import math
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support.daemon import DIE_WITH_PARENT
from tests.support.endurance import Endurance
from tests.support.sites import PATIENCE_SECONDS, POLL_SECONDS, VolumeSpec
from tests.support.stamping_writers import Mix
from tests.torture.bench import Bench, Figures
from tests.torture.placed_pair import PlacedDaemon, PlacedPair

MIB = 1 << 20
VOLUMES = [
    VolumeSpec("data", 6 * MIB + 512, {"track_size": "4KiB", "hot_regions_max": 16}),
    VolumeSpec(
        "log",
        2 * MIB,
        {"track_size": "4KiB", "hot_regions_max": 16},
        region_bytes=256 << 10,
    ),
]
MIX = Mix(flush=0.05)
_REPLIES = "write,writev,sendto,sendmsg"
_RENAMES = "rename,renameat,renameat2,unlink,unlinkat"
RUNNING, STARTING = "running", "starting"
CALLS = {
    ("primary", RUNNING): {
        "pwrite64": 300,
        "fdatasync": 40,
        "fallocate": 30,
        "ftruncate": 6,
        "fsync": 3,
        "openat": 8,
        _REPLIES: 300,
    },
    ("remote", RUNNING): {
        "pwrite64": 300,
        "fdatasync": 40,
        "fallocate": 20,
        "ftruncate": 3,
        "fsync": 12,
        "openat": 12,
        _RENAMES: 8,
        _REPLIES: 100,
    },
    ("primary", STARTING): {
        "pwrite64": 12,
        "fdatasync": 16,
        "ftruncate": 4,
        "fsync": 6,
    },
    ("remote", STARTING): {"pwrite64": 6, "fdatasync": 16, "fsync": 6, _RENAMES: 3},
}
"""Calls, and about how many one thread makes in a round's time: where the largest n
begin. What is not reached is counted and lowers the next."""

FIRST_EACH = 4
"""The first so many of each call are swept one by one; then chance chooses."""

ROUND_SECONDS = 3.0
"""How long a kill may take to come before the call is counted as not reached."""

ATTACH_SECONDS = 10.0


@dataclass(frozen=True)
class KillPoint:
    site: str
    phase: str
    calls: str
    number: int

    def __str__(self) -> str:
        return f"{self.site}:{self.phase}:{self.calls}:{self.number}"

    def strace(self) -> list[str]:
        """Words before a command, or before `-p PID`, that make it die at this point.

        With -D the tracer is a grandchild: the daemon stays this process's own child.
        """
        words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "signal=none"]
        words += ["-e", f"trace={self.calls}"]
        words += ["-e", f"inject={self.calls}:signal=KILL:when={self.number}"]
        return words if self.phase == RUNNING else [*words, "-D"]


def parse_point(text: str) -> KillPoint:
    site, phase, calls, number = text.split(":")
    return KillPoint(site, phase, calls, int(number))


class Sweep:
    """Chooses what to kill next, and remembers what was reached."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._most = {
            (*where, calls): most
            for where, kinds in CALLS.items()
            for calls, most in kinds.items()
        }
        self.reached: set[KillPoint] = set()
        self.not_reached: set[KillPoint] = set()
        self.by_call: Counter[str] = Counter()

    def __iter__(self) -> Iterator[KillPoint]:
        if self._bench.point is not None:
            yield parse_point(self._bench.point)
            return
        one_by_one = [
            KillPoint(*kind, number)
            for number in range(1, FIRST_EACH + 1)
            for kind in self._most
        ]
        self._bench.random.shuffle(one_by_one)
        while True:
            # In turn, so that a short share has some of both.
            yield one_by_one.pop(0) if one_by_one else self._chosen()
            yield self._chosen()

    def _chosen(self) -> KillPoint:
        chance = self._bench.random
        for _ in range(100):
            kind = chance.choice(list(self._most))
            # As often between 1 and 10 as between 10 and 100.
            most = self._most[kind]
            number = int(math.exp(chance.uniform(0, math.log(most + 1))))
            point = KillPoint(*kind, max(1, number))
            if point not in self.reached and point not in self.not_reached:
                return point
        return point

    def note(self, point: KillPoint, *, was_killed: bool) -> None:
        if was_killed:
            self.reached.add(point)
            self.by_call[f"{point.site} {point.calls.partition(',')[0]}"] += 1
            return
        self.not_reached.add(point)
        key = point.site, point.phase, point.calls
        self._most[key] = max(1, min(self._most[key], point.number - 1))


async def kill_sweep(bench: Bench) -> Figures:
    """The part: one pair, killed again and again."""
    sweep = Sweep(bench)
    rounds = Rounds(bench, sweep)
    with PlacedPair(bench.directory / "pair", VOLUMES) as pair:
        await pair.start()
        endurance = Endurance(pair, bench.seed, writers=2, mix=MIX)
        async with endurance.under_load():
            await endurance.check_next_cut_is_exact()
            endurance.go_on_cutting()
            for point in sweep:
                if bench.left() < 0:
                    break
                bench.again = f"--point '{point}'"
                await rounds.kill_at(pair, endurance, point)
            bench.again = None
    return {
        "kill_points": len(sweep.reached),
        "kills": rounds.kills,
        "kills_during_start": rounds.kills_during_start,
        "points_not_reached": len(sweep.not_reached),
        "by_call": dict(sorted(sweep.by_call.items())),
        "cuts_judged": rounds.judged,
        "host_writes": len(endurance.history.ops),
    }


class Rounds:
    """Has one daemon killed by strace, starts it again, checks everything."""

    def __init__(self, bench: Bench, sweep: Sweep) -> None:
        self._bench = bench
        self._sweep = sweep
        self.kills = 0
        self.kills_during_start = 0
        self.judged = 0

    async def kill_at(
        self, pair: PlacedPair, endurance: Endurance, point: KillPoint
    ) -> None:
        daemon = pair.primary if point.site == "primary" else pair.remote
        if point.phase == RUNNING:
            was_killed = await self._while_running(daemon, point)
        else:
            daemon.kill()
            self.kills += 1
            was_killed = await self._while_starting(daemon, point)
        self._sweep.note(point, was_killed=was_killed)
        self.kills += was_killed
        self.kills_during_start += was_killed and point.phase == STARTING
        if was_killed or point.phase == STARTING:
            await self._recover(pair, endurance, daemon)
        how = "killed" if was_killed else "not reached"
        self._bench.say(f"{point} {how}; {len(self._sweep.reached)} points so far")

    async def _while_running(self, daemon: PlacedDaemon, point: KillPoint) -> bool:
        assert daemon.process is not None
        tracer = subprocess.Popen(
            [*DIE_WITH_PARENT, *point.strace(), "-p", str(daemon.process.pid)]
        )
        try:
            await self._until(lambda: not daemon.is_running, ROUND_SECONDS)
        finally:
            tracer.terminate()  # it lets go of what lives
            tracer.wait(ATTACH_SECONDS)
        return self._is_dead(daemon)

    async def _while_starting(self, daemon: PlacedDaemon, point: KillPoint) -> bool:
        daemon.place.prefix = point.strace()
        try:
            daemon.spawn()
        finally:
            daemon.place.prefix = []
        await self._until(
            lambda: not daemon.is_running or daemon.answers(), PATIENCE_SECONDS
        )
        if self._is_dead(daemon):
            return True
        daemon.kill()
        self.kills += 1
        return False

    @staticmethod
    async def _until(condition: Callable[[], bool], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while not condition() and loop.time() < ends:
            await asyncio.sleep(POLL_SECONDS)

    @staticmethod
    def _is_dead(daemon: PlacedDaemon) -> bool:
        process = daemon.process
        assert process is not None
        if process.poll() is None:
            return False
        code = process.returncode
        assert code == -signal.SIGKILL, f"{daemon.role} ended with {code}"
        daemon.process = None
        return True

    async def _recover(
        self, pair: PlacedPair, endurance: Endurance, daemon: PlacedDaemon
    ) -> None:
        if daemon is pair.primary:
            await endurance.host_lost_primary()
        await daemon.start()
        if daemon is pair.primary:
            await endurance.judge_host_volumes()
            await endurance.connect_writers()
        await endurance.judge_newest_point()
        await endurance.progress(20)
        await endurance.check_next_cut_is_exact()
        self.judged += 2
        endurance.go_on_cutting()
