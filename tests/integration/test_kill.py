"""kill -9 of either daemon or both, at random moments, under load; SIGSTOP for long.

After each: no promised point is lost, the point is one instant of the group, the
host's acknowledged writes are there, the next cut is exact; and what a restart
compares is bounded by what changed and by the hot regions, what it sends by what
differs. FARSHORE_KILL_ROUNDS sets the rounds of each, FARSHORE_SEED the chances, and
FARSHORE_STOP_SECONDS how long a stopped daemon stands still at least: without it,
until the other site has noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support import evidence
from tests.support.endurance import Endurance
from tests.support.sites import Daemon, Pair, VolumeSpec, until
from tests.support.stamping_writers import Mix

ROUNDS = int(os.environ.get("FARSHORE_KILL_ROUNDS", "3"))
STOP_SECONDS = float(os.environ.get("FARSHORE_STOP_SECONDS", "0"))
KILLS_PER_START = 3
"""So often a start is killed before one is left in peace."""

SEED = int(os.environ.get("FARSHORE_SEED", "1"))

MIB = 1 << 20
TRACK_BYTES = 4096
HOT_REGIONS_MAX = 16
BIG_REGION_BYTES = MIB
SMALL_REGION_BYTES = 256 << 10
BIG_TRACKS = 256 * MIB // TRACK_BYTES

VOLUMES = [
    # Writes stay in a part of it: what a full copy or comparison would cost is
    # far more than what any round may.
    VolumeSpec(
        "big",
        BIG_TRACKS * TRACK_BYTES,
        {
            "track_size": "4KiB",
            "hot_regions_max": HOT_REGIONS_MAX,
        },
        BIG_REGION_BYTES,
    ),
    # Regions smaller than the longest requests.
    VolumeSpec(
        "small",
        6 * MIB + 1536,
        {
            "track_size": "4KiB",
            "hot_regions_max": HOT_REGIONS_MAX,
        },
        SMALL_REGION_BYTES,
    ),
]
HOT_TRACKS_MAX = HOT_REGIONS_MAX * (
    BIG_REGION_BYTES // TRACK_BYTES + SMALL_REGION_BYTES // TRACK_BYTES
)
MIX = Mix(hot=0.9, sectors_max=48 * MIB // 512)
WRITERS = 3
CHANGES_PER_ROUND = (10, 400)
PHASE_SECONDS_MAX = 0.1
"""A kill comes this much later than a host's write, by chance: also between two."""


FIGURES: Counter[str] = Counter()
"""What all tests of this module did, for the page of evidence."""


@pytest.fixture(scope="module", autouse=True)
def _evidence() -> Iterator[None]:
    yield
    evidence.record("kills", "pytest tests/integration/test_kill.py", dict(FIGURES))


@contextlib.asynccontextmanager
async def endured(pair: Pair, seed: int) -> AsyncIterator[Endurance]:
    """Start both, put them under load, and have the first point checked."""
    await pair.start()
    endurance = Endurance(pair, seed, writers=WRITERS, mix=MIX)
    async with endurance.under_load():
        await endurance.check_next_cut_is_exact()
        endurance.go_on_cutting()
        yield endurance
    FIGURES["points_judged"] += endurance.points_judged
    FIGURES["points_compared_byte_for_byte"] += endurance.points_compared
    assert endurance.stamped_sectors > 1000


def kill(*daemons: Daemon) -> None:
    for daemon in daemons:
        FIGURES[f"kills_of_the_{daemon.role}"] += 1
        daemon.kill()


async def random_moment(endurance: Endurance, chance: random.Random) -> None:
    await endurance.progress(chance.randint(*CHANGES_PER_ROUND))
    await asyncio.sleep(chance.uniform(0, PHASE_SECONDS_MAX))


async def test_a_killed_remote_keeps_its_promises_and_gets_no_full_copy(
    tmp_path: Path,
) -> None:
    chance = random.Random(SEED)
    print(f"FARSHORE_SEED={SEED}")
    with Pair(tmp_path, VOLUMES) as pair:
        async with endured(pair, SEED) as endurance:
            for _ in range(ROUNDS):
                await random_moment(endurance, chance)
                before = len(endurance.cycles())
                kill(pair.remote)
                await endurance.progress(50)
                await pair.remote.start()
                await endurance.judge_newest_point()
                await endurance.check_next_cut_is_exact()
                endurance.go_on_cutting()
                for cost in endurance.cycles()[before:]:
                    assert cost.compared == 0, "nothing was in doubt"
                    assert cost.sent < BIG_TRACKS / 8, cost
        assert pair.primary.group()["alarms"] == []


async def test_a_killed_primary_loses_no_write_and_copies_no_volume(
    tmp_path: Path,
) -> None:
    chance = random.Random(SEED + 1)
    print(f"FARSHORE_SEED={SEED}")
    with Pair(tmp_path, VOLUMES) as pair:
        async with endured(pair, SEED) as endurance:
            began = endurance.history.now()
            for _ in range(ROUNDS):
                await random_moment(endurance, chance)
                kill(pair.primary)
                # Only now: a cycle may commit in the moment before the kill.
                before = len(endurance.cycles())
                await endurance.host_lost_primary()
                await endurance.judge_newest_point()
                point = endurance.point()
                assert point is not None
                safe = endurance.history.window(
                    0, endurance.history.now(), point["cut_time"]
                )
                await pair.primary.start()
                await endurance.judge_host_volumes()
                await endurance.connect_writers()
                await endurance.progress(20)
                await endurance.check_next_cut_is_exact()
                first, *rest = endurance.cycles()[before:]
                changed = endurance.changed_since(safe.first, TRACK_BYTES)
                # A durable bitmap is written anew when a region of it cools, which
                # may be long ago on a busy machine.
                ever = endurance.changed_since(began, TRACK_BYTES)
                print(f"{changed=} {ever=} {first}")
                assert first.sent <= changed, "more was sent than differs"
                assert first.compared <= ever + HOT_TRACKS_MAX < BIG_TRACKS / 2
                assert all(cost.compared == 0 for cost in rest)
                endurance.go_on_cutting()


async def go_on_after_kills(endurance: Endurance) -> None:
    """The hosts come back to a primary that was killed; everything is judged."""
    await endurance.judge_newest_point()
    await endurance.judge_host_volumes()
    await endurance.connect_writers()
    await endurance.progress(20)
    await endurance.check_next_cut_is_exact()
    endurance.go_on_cutting()


async def test_both_killed_at_once_lose_nothing_that_was_promised(
    tmp_path: Path,
) -> None:
    chance = random.Random(SEED + 2)
    print(f"FARSHORE_SEED={SEED}")
    with Pair(tmp_path, VOLUMES) as pair:
        async with endured(pair, SEED) as endurance:
            for _ in range(ROUNDS):
                await random_moment(endurance, chance)
                kill(*chance.sample(pair.daemons, 2))
                await endurance.host_lost_primary()
                for daemon in chance.sample(pair.daemons, 2):
                    await daemon.start()
                await go_on_after_kills(endurance)


def is_recovering(daemon: Daemon) -> bool:
    """Tell whether the process has a file of its state open, and serves nobody."""
    process = daemon.process
    assert process is not None
    assert process.poll() is None, daemon.tail()
    state = str(daemon.state_directory)
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(each).startswith(state):
                    return True
    return False


async def kill_within_start_up(daemon: Daemon, chance: random.Random) -> None:
    """Start a daemon, and kill it in the middle of its recovery."""
    daemon.spawn()
    deadline = time.monotonic() + 30
    while not is_recovering(daemon):  # a turn of the loop would be far too long
        assert time.monotonic() < deadline, daemon.tail()
    spin = time.monotonic() + chance.choice((0.0, 0.002, 0.02)) * chance.random()
    while time.monotonic() < spin:
        pass
    kill(daemon)
    FIGURES["kills_during_recovery"] += 1


@pytest.mark.parametrize(
    "role",
    [
        pytest.param("primary", marks=pytest.mark.hunt),
        pytest.param("remote", marks=pytest.mark.hunt),
        "both",
    ],
)
async def test_killed_again_and_again_while_it_recovers(
    tmp_path: Path, role: str
) -> None:
    chance = random.Random(f"{SEED}/{role}")
    print(f"FARSHORE_SEED={SEED}")
    with Pair(tmp_path, VOLUMES) as pair:
        killed = [d for d in pair.daemons if role in {d.role, "both"}]
        async with endured(pair, SEED) as endurance:
            for _ in range((ROUNDS + 2) // 3):
                await random_moment(endurance, chance)
                kill(*killed)
                if pair.primary in killed:
                    await endurance.host_lost_primary()
                for _ in range(KILLS_PER_START):
                    for daemon in killed:
                        await kill_within_start_up(daemon, chance)
                for daemon in killed:
                    await daemon.start()
                if pair.primary in killed:
                    await go_on_after_kills(endurance)
                    continue
                await endurance.judge_newest_point()
                await endurance.progress(50)
                await endurance.check_next_cut_is_exact()
                endurance.go_on_cutting()


@contextlib.asynccontextmanager
async def stopped(daemon: Daemon) -> AsyncIterator[None]:
    """SIGSTOP it, for `STOP_SECONDS` at least; what the block waits for counts."""
    began = time.monotonic()
    daemon.pause()
    FIGURES[f"stops_of_the_{daemon.role}"] += 1
    try:
        yield
        await asyncio.sleep(max(0.0, began + STOP_SECONDS - time.monotonic()))
    finally:
        daemon.resume()


async def test_a_site_that_stands_still_for_long_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, VOLUMES) as pair:
        async with endured(pair, SEED) as endurance:
            await endurance.progress(50)
            pids = [d.process.pid for d in pair.daemons if d.process]
            async with stopped(pair.remote):
                lost = len(pair.primary.events("link_lost"))
                while len(pair.primary.events("link_lost")) == lost:
                    await endurance.progress(50)  # hosts do not notice
            await pair.connected()
            await endurance.judge_newest_point()
            await endurance.check_next_cut_is_exact()
            endurance.go_on_cutting()
            await endurance.progress(50)
            ended = len(pair.remote.events("session_ended"))
            async with stopped(pair.primary):
                await until(
                    lambda: len(pair.remote.events("session_ended")) > ended,
                    "the remote has noticed",
                )
                await endurance.judge_newest_point()
            await endurance.progress(50)
            await endurance.check_next_cut_is_exact()
            assert pids == [d.process.pid for d in pair.daemons if d.process]
            endurance.go_on_cutting()


async def test_a_write_over_many_small_regions_is_remembered_by_all_of_them(
    tmp_path: Path,
) -> None:
    volume = VolumeSpec(
        "v",
        4 * MIB,
        {"track_size": "4KiB", "hot_regions_max": 1024},
        16 << 10,
    )
    with Pair(tmp_path, [volume]) as pair:
        await pair.start()
        host = await pair.primary.nbd("g/v")
        await host.write(0, bytes(range(1, 129)) * 32)
        await pair.cut()
        await host.write(MIB, random.Random(SEED).randbytes(MIB))
        pair.primary.kill()
        host.abort()
        await pair.primary.start()
        await pair.connected()
        await pair.cut()
        host_image = await pair.primary.read_whole("g/v")
        assert await pair.remote.read_whole("g/v") == host_image
