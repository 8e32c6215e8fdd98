"""A volume joins a group under hosts at full speed: its first point is one instant.

Stamping writers are on a volume of the group and on the one that is added, over both
at once, from the moment it is served. Every point that has both is judged by what the
writers know (tests/support/cut_oracle.py), first of all the one that the first copy
made.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.changing_group import KeepingPair
from tests.support.cut_oracle import SECTOR_BYTES, CutJudge, History
from tests.support.sites import VolumeSpec, until
from tests.support.stamping_writers import StampingWriter

MIB = 1 << 20
SEED = 7
SIZES = (4 * MIB + 3 * SECTOR_BYTES, 40 * MIB + SECTOR_BYTES)
"""The second takes three parts at least."""

WRITERS = 2
POINTS_AFTER = 3


async def judged(
    pair: KeepingPair,
    judge: CutJudge,
    history: History,
    cut: dict[str, Any],
    begun: int,
) -> int:
    """Judge a point of both volumes; return how many writes the cut met in flight."""
    window = history.window(begun, history.now(), cut["cut_time"])
    served = await pair.served(cut["number"])
    images = [bytearray(served[name]) for name in ("v0", "v1")]
    ops = list(history.ops)
    verdict = await asyncio.to_thread(judge.check, images, window, ops)
    return verdict.in_flight


@pytest.mark.hunt
async def test_the_point_in_which_a_volume_joins_is_one_instant(tmp_path: Path) -> None:
    specs = [VolumeSpec(f"v{n}", size) for n, size in enumerate(SIZES)]
    options: dict[str, object] = {"interval": "300ms"}
    with KeepingPair(tmp_path, specs[:1], group=options) as pair:
        await pair.start()
        await until(lambda: pair.committed("g") > 0, "a first point")
        pair.device("v1").write_bytes(bytes(SIZES[1]))  # data, though it is zeroes
        pair.add_to_configs(specs[1])
        history = History()
        judge = CutJudge([size // SECTOR_BYTES for size in SIZES])
        begun = history.now()
        await asyncio.to_thread(pair.volume, "add", "v1")
        writers = []
        for number in range(WRITERS):
            clients = [await pair.primary.nbd(f"g/v{n}") for n in range(2)]
            regions = [spec.region_bytes for spec in specs]
            writers.append(
                StampingWriter(number + 1, clients, history, SEED, region_bytes=regions)
            )
            writers[-1].start()
        try:
            await until(lambda: not pair.joining(), "a point has the volume")
            shapes = {
                number: set(await pair.served(number)) for number in pair.numbers()
            }
            joined = min(number for number, names in shapes.items() if "v1" in names)
            points = pair.remote.call("points", group="g")
            (first,) = [point for point in points if point["number"] == joined]
            in_flight = await judged(pair, judge, history, first, begun)
            for _ in range(POINTS_AFTER):
                for writer in writers:
                    writer.check()
                begun = history.now()
                in_flight += await judged(pair, judge, history, await pair.cut(), begun)
            for writer in writers:
                await writer.stop()
        finally:
            for writer in writers:
                writer.abort()
        assert in_flight > 0, "no cut met a write in flight: nothing was shown"
        parts = [number for number, names in shapes.items() if number < joined]
        assert len(parts) > 2, "the copy came in parts"
        await pair.cut()
        assert await pair.remote.read_whole("g/v1") == pair.content("v1")
