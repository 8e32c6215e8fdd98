"""Every recovery point is all volumes of the group at one instant.

Real daemons, real sockets. Writers at full speed stamp every sector; each point
is read whole at the remote and judged (tests/support/cut_oracle.py), compared
byte for byte with the primary's own image of that cut (`@cut`), and, after the
cuts for which the writers paused, with what they are known to have written.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import evidence
from tests.support.cut_oracle import (
    SECTOR_BYTES,
    CutJudge,
    History,
    Op,
    Window,
    known_image,
    sequences_of,
)
from tests.support.nbd_client import NbdClient
from tests.support.sites import Pair, VolumeSpec, read_all
from tests.support.stamping_writers import Mix, StampingWriter, connect_writers

CUTS = int(os.environ.get("FARSHORE_ORACLE_CUTS", "20"))
SEED = int(os.environ.get("FARSHORE_SEED", "20"))
WRITERS = 4
PAUSED_EVERY = 5
"""Each fifth cut is one of writers at rest."""

WRITES_BETWEEN_CUTS = 150
"""Acknowledged since the last cut before the next is asked for."""

MIB = 1 << 20
SIZES = [24 * MIB + 37 * SECTOR_BYTES, 10 * MIB, 3 * MIB + 7 * SECTOR_BYTES]


CLASHING = Mix(trim=0.2, zero=0.2, long_trim=0.01, fua=0.3, flush=0.08, hot=0.6)
"""Unaligned trims, zeroings and durable writes over each other, in a few tracks."""

FIGURES: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _evidence() -> Iterator[None]:
    yield
    command = "pytest tests/integration/test_cut_oracle.py"
    evidence.record("cut_oracle", command, dict(FIGURES))


def volumes(track_size: str) -> list[VolumeSpec]:
    options: dict[str, object] = {"track_size": track_size}
    return [VolumeSpec(f"v{n}", size, options) for n, size in enumerate(SIZES)]


class Oracle:
    """Cuts a group under load, and judges what comes out at the remote."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.history = History()
        self.judge = CutJudge([size // SECTOR_BYTES for size in SIZES])
        self.newest = 0
        self.in_flight = 0
        self.stamped = 0

    async def cut(self) -> tuple[dict[str, Any], Window, list[bytearray]]:
        """Cut, read the point whole, compare it with `@cut`, judge it."""
        requested = self.history.now()
        cut = await self.pair.cut()
        window = self.history.window(requested, self.history.now(), cut["cut_time"])
        assert cut["number"] > self.newest, "cycle numbers rise"
        self.newest = cut["number"]
        point = self.pair.remote.group()["recovery_point"]
        assert point["number"] == self.newest
        assert point["cut_time"] == cut["cut_time"]
        images = await self.pair.images(self.pair.remote)
        standing = await self.pair.images(self.pair.primary, "@cut")
        for image, at_cut, size in zip(images, standing, SIZES, strict=True):
            assert len(image) == size
            assert image == at_cut, "the point is not the primary's image of the cut"
        ops = list(self.history.ops)
        verdict = await asyncio.to_thread(self.judge.check, images, window, ops)
        self.in_flight += verdict.in_flight
        self.stamped = verdict.stamped_sectors
        return cut, window, images

    async def cut_at_rest(self, writers: list[StampingWriter]) -> None:
        """With nothing in flight the whole image is known before it is cut."""
        for writer in writers:
            await writer.pause()
        present = await self.pair.images(self.pair.primary)
        _, window, images = await self.cut()
        assert window.first == window.last == self.history.now()
        assert images == present, "the point is not the volume at rest"
        ops = list(self.history.ops)
        for volume, image in enumerate(images):
            check_known(image, volume, ops)
        for writer in writers:
            writer.resume()

    async def progress(self, writes: int) -> None:
        """Let the writers get on: conditions, not time, pace the cuts."""
        goal = len(self.history.ops) + writes
        async with asyncio.timeout(60):
            while len(self.history.ops) < goal:
                await asyncio.sleep(0.005)


def check_known(image: bytearray, volume: int, ops: list[Op]) -> None:
    expected, is_known = known_image(len(image), volume, ops)
    same = sequences_of(image, volume) == sequences_of(expected, volume)
    assert same[is_known].all()
    # On a busy machine much is last written by two at once; not nearly everything.
    assert is_known.mean() > 0.1, "too little of the volume is known"


@pytest.mark.parametrize(
    ("track_size", "link", "cuts", "mix"),
    [
        ("4KiB", {"connections": 2}, CUTS, Mix()),
        pytest.param("64KiB", {}, CUTS // 3, Mix(), marks=pytest.mark.hunt),
        ("4KiB", {}, CUTS // 3, CLASHING),
    ],
    ids=["4KiB tracks, two links", "64KiB tracks, one link", "all kinds that clash"],
)
async def test_every_point_is_one_instant_of_all_volumes(
    tmp_path: Path, track_size: str, link: dict[str, object], cuts: int, mix: Mix
) -> None:
    with Pair(tmp_path, volumes(track_size), link=link) as pair:
        await pair.start()
        oracle = Oracle(pair)
        writers = await connect_writers(
            pair, oracle.history, SEED, count=WRITERS, mix=mix
        )
        try:
            for writer in writers:
                writer.start()
            for number in range(cuts):
                await oracle.progress(WRITES_BETWEEN_CUTS)
                if number % PAUSED_EVERY == PAUSED_EVERY - 1:
                    await oracle.cut_at_rest(writers)
                else:
                    await oracle.cut()
            for writer in writers:
                await writer.stop()
        finally:
            for writer in writers:
                writer.abort()
        assert oracle.newest >= cuts
        assert oracle.stamped > 1000
        assert oracle.in_flight > 0, "no cut met a write in flight: nothing was shown"
        FIGURES["cuts_compared_byte_for_byte"] += cuts
        FIGURES["changes"] += len(oracle.history.ops)
        FIGURES["in_flight_at_cuts"] += oracle.in_flight
        print(
            f"{cuts} cuts, {len(oracle.history.ops)} changes, "
            f"{oracle.in_flight} in flight at cuts"
        )


async def test_a_reader_keeps_the_point_that_it_opened(tmp_path: Path) -> None:
    with Pair(tmp_path, volumes("4KiB")) as pair:
        await pair.start()
        oracle = Oracle(pair)
        writers = await connect_writers(pair, oracle.history, SEED, count=2)
        readers: list[PointReader] = []
        try:
            for writer in writers:
                writer.start()
            for _ in range(5):
                await oracle.progress(WRITES_BETWEEN_CUTS)
                _, _, images = await oracle.cut()
                clients = [await pair.remote.nbd(name) for name in pair.exports]
                readers.append(PointReader(clients, images, SEED))
            for writer in writers:
                await writer.stop()
            for reader in readers:
                await reader.stop()
        finally:
            for writer in writers:
                writer.abort()
            for reader in readers:
                reader.abort()


class PointReader:
    """Reads one point again and again, while newer ones come; it never changes."""

    def __init__(
        self, clients: list[NbdClient], images: list[bytearray], seed: int
    ) -> None:
        self._clients = clients
        self._images = images
        self._random = random.Random(seed)
        self._stopped = False
        self._reads = 0
        self._tasks = [asyncio.create_task(self._read()) for _ in range(4)]

    async def _read(self) -> None:
        while not self._stopped:
            volume = self._random.randrange(len(self._clients))
            # Mostly where the writers' favourite tracks are.
            size = min(len(self._images[volume]), MIB << self._random.randrange(6))
            offset = self._random.randrange(size)
            length = min(self._random.randint(1, 64 << 10), size - offset)
            data = await self._clients[volume].read(offset, length)
            image = self._images[volume]
            assert data == image[offset : offset + length], "an open point has changed"
            self._reads += 1

    async def stop(self) -> None:
        """Raise what was found; then read every volume whole once more."""
        self._stopped = True
        await asyncio.gather(*self._tasks)
        assert self._reads > 10
        for client, image in zip(self._clients, self._images, strict=True):
            assert await read_all(client) == image, "an open point has changed"
            await client.disconnect()

    def abort(self) -> None:
        for task in self._tasks:
            task.cancel()
        for client in self._clients:
            client.abort()
