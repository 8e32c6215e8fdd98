"""kill -9 of either daemon at random moments, under load.

After each: no promised point is lost, the point is one instant of the group, the
host's acknowledged writes are there, the next cut is exact; and what a restart
compares is bounded by what changed and by the hot regions, what it sends by what
differs. FARSHORE_KILL_ROUNDS sets the rounds of each, FARSHORE_SEED the chances.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

from tests.support.endurance import Endurance
from tests.support.sites import Pair, VolumeSpec
from tests.support.stamping_writers import Mix

ROUNDS = int(os.environ.get("FARSHORE_KILL_ROUNDS", "5"))
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


async def random_moment(endurance: Endurance, chance: random.Random) -> None:
    await endurance.progress(chance.randint(*CHANGES_PER_ROUND))
    await asyncio.sleep(chance.uniform(0, PHASE_SECONDS_MAX))


async def test_a_killed_remote_keeps_its_promises_and_gets_no_full_copy(
    tmp_path: Path,
) -> None:
    chance = random.Random(SEED)
    print(f"FARSHORE_SEED={SEED}")
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        endurance = Endurance(pair, SEED, writers=WRITERS, mix=MIX)
        async with endurance.under_load():
            await endurance.check_next_cut_is_exact()
            endurance.go_on_cutting()
            for _ in range(ROUNDS):
                await random_moment(endurance, chance)
                before = len(endurance.cycles())
                pair.remote.kill()
                await endurance.progress(50)
                await pair.remote.start()
                await endurance.judge_newest_point()
                await endurance.check_next_cut_is_exact()
                endurance.go_on_cutting()
                for cost in endurance.cycles()[before:]:
                    assert cost.compared == 0, "nothing was in doubt"
                    assert cost.sent < BIG_TRACKS / 8, cost
        assert endurance.stamped_sectors > 1000
        assert pair.primary.group()["alarms"] == []


async def test_a_killed_primary_loses_no_write_and_copies_no_volume(
    tmp_path: Path,
) -> None:
    chance = random.Random(SEED + 1)
    print(f"FARSHORE_SEED={SEED}")
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        endurance = Endurance(pair, SEED, writers=WRITERS, mix=MIX)
        async with endurance.under_load():
            await endurance.check_next_cut_is_exact()
            endurance.go_on_cutting()
            round_began = 0
            for _ in range(ROUNDS):
                earlier, round_began = round_began, endurance.history.now()
                await random_moment(endurance, chance)
                pair.primary.kill()
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
                recent = endurance.changed_since(earlier, TRACK_BYTES)
                print(f"{changed=} {recent=} {first}")
                assert first.sent <= changed, "more was sent than differs"
                assert first.compared <= recent + HOT_TRACKS_MAX
                assert all(cost.compared == 0 for cost in rest)
                endurance.go_on_cutting()
        assert endurance.stamped_sectors > 1000


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
