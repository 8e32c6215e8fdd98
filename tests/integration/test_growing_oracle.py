"""Points across growths under hosts at full speed: each still one instant of all.

Stamping writers are on two volumes, fio on a third; all three grow, again and again.
Every point is read whole, compared with the primary's own image of the cut, and judged
by what the writers know (tests/support/cut_oracle.py). What fio verifies of its writes
it verifies at both sites.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.support.cut_oracle import SECTOR_BYTES, CutJudge, History
from tests.support.sites import Pair, VolumeSpec
from tests.support.stamping_writers import StampingWriter

SEED = int(os.environ.get("FARSHORE_SEED", "5"))
GROWTHS = int(os.environ.get("FARSHORE_GROWTHS", "4"))
WRITES_BETWEEN_GROWTHS = 150
MIB = 1 << 20
FIRST = (4 * MIB + 3 * SECTOR_BYTES, MIB + SECTOR_BYTES)
FIO_BYTES = 8 * MIB
STEPS = (1, 7, 8, 2049, 4096, 8 * 4096)
"""Sectors that a volume grows by: in its last track, out of it, by whole regions."""

ENDS = [size // SECTOR_BYTES + GROWTHS * max(STEPS) for size in FIRST]
FIO = (
    "--name=job",
    "--ioengine=nbd",
    f"--size={FIO_BYTES}",
    "--bs=4k",
    "--iodepth=16",
    "--verify=crc32c",
    "--verify_state_save=0",
    "--verify_fatal=1",
    f"--randseed={SEED}",
    "--output-format=terse",
)


class GrowingHosts:
    """Writers of both stamped volumes; those of before a growth go on after it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.history = History()
        self.judge = CutJudge(ENDS)
        self.sizes = list(FIRST)
        self.writers: list[StampingWriter] = []
        self.in_flight = 0

    async def join(self) -> None:
        """Connect one more writer, with the sizes that the volumes have now."""
        clients = [await self.pair.primary.nbd(f"g/v{n}") for n in range(2)]
        assert [each.info.size_bytes for each in clients] == self.sizes
        regions = [volume.region_bytes for volume in self.pair.volumes[:2]]
        number = len(self.writers) + 1
        writer = StampingWriter(
            number, clients, self.history, SEED, region_bytes=regions
        )
        self.writers.append(writer)
        writer.start()

    async def progress(self) -> None:
        goal = len(self.history.ops) + WRITES_BETWEEN_GROWTHS
        async with asyncio.timeout(60):
            while len(self.history.ops) < goal:
                for writer in self.writers:
                    writer.check()
                await asyncio.sleep(0.005)

    async def grow(self, volume: int, size_bytes: int) -> None:
        grown = await asyncio.to_thread(
            self.pair.primary.call,
            "grow",
            group="g",
            volume=f"v{volume}",
            size_bytes=size_bytes,
        )
        assert grown["size_bytes"] == size_bytes
        self.sizes[volume] = size_bytes

    async def cut(self, *, stands: bool = True) -> list[int]:
        """Cut and judge the point; return the sizes that its volumes have.

        `stands`: nothing grows meanwhile, which would end the primary's own image.
        """
        requested = self.history.now()
        cut = await self.pair.cut()
        window = self.history.window(requested, self.history.now(), cut["cut_time"])
        images = []
        for volume in range(2):
            name = f"g/v{volume}"
            image = await self.pair.remote.read_whole(f"{name}@{cut['number']}")
            if stands:
                at_cut = await self.pair.primary.read_whole(f"{name}@cut")
                assert image == at_cut, "the point is not the primary's image of it"
            images.append(image)
        sizes = [len(image) for image in images]
        for image, sectors in zip(images, ENDS, strict=True):
            image.extend(bytes(sectors * SECTOR_BYTES - len(image)))
        ops = list(self.history.ops)
        verdict = await asyncio.to_thread(self.judge.check, images, window, ops)
        self.in_flight += verdict.in_flight
        return sizes


async def fio(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *("fio", *FIO, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode(errors="replace")


@pytest.mark.needs_package("fio")
@pytest.mark.hunt
async def test_points_across_growths_are_one_instant_each(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    specs = [VolumeSpec(f"v{n}", size) for n, size in enumerate(FIRST)]
    specs.append(VolumeSpec("fio", FIO_BYTES + SECTOR_BYTES))
    with Pair(tmp_path, specs) as pair:
        await pair.start()
        hosts = GrowingHosts(pair)
        uri = f"--uri={pair.primary.uri('g/fio')}"
        writing = asyncio.create_task(
            fio("--rw=randwrite", "--do_verify=1", "--loops=3", uri)
        )
        try:
            await hosts.join()
            for growth in range(GROWTHS):
                await hosts.progress()
                volume, before = growth % 2, list(hosts.sizes)
                after = before[volume] + chance.choice(STEPS) * SECTOR_BYTES
                # A cut asked for while it grows falls before it or after it.
                grown, meanwhile = await asyncio.gather(
                    hosts.grow(volume, after), hosts.cut(stands=False)
                )
                del grown
                assert meanwhile[1 - volume] == before[1 - volume]
                assert meanwhile[volume] in {before[volume], after}
                await hosts.join()
                await hosts.progress()
                assert await hosts.cut() == hosts.sizes
                fio_bytes = FIO_BYTES + (growth + 2) * SECTOR_BYTES
                await asyncio.to_thread(
                    pair.primary.call,
                    "grow",
                    group="g",
                    volume="fio",
                    size_bytes=fio_bytes,
                )
            for writer in hosts.writers:
                await writer.stop()
            await writing
        finally:
            writing.cancel()
            for writer in hosts.writers:
                writer.abort()
        assert hosts.in_flight > 0, "no cut met a write in flight: nothing was shown"
        assert await hosts.cut() == hosts.sizes
        at_remote = f"--uri={pair.remote.uri('g/fio')}"
        await fio("--rw=randread", at_remote)
        for volume in ("v0", "v1", "fio"):
            image = await pair.remote.read_whole(f"g/{volume}")
            assert image == pair.content(volume)
        assert len(image) == FIO_BYTES + (GROWTHS + 1) * SECTOR_BYTES
