"""kill -9 of either site between two steps of a growth, while hosts write.

After each: a volume has its old size or the new one; no acknowledged write is lost;
a point of before has the size and the bytes that it had; the growth can be asked for
again; and the next point is the volume as it is then.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import FarshoreError
from tests.support.daemon import run_cli
from tests.support.killed_steps import Step, killed_after
from tests.support.nbd_client import NbdClient
from tests.support.sites import Daemon, Pair, VolumeSpec, read_all, until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_package("strace")]

MIB = 1 << 20
SECTOR = 512
FIRST = 2 * MIB + 3 * SECTOR
"""The last track is cut."""

GROWTHS = (SECTOR, 4096 - SECTOR, MIB + SECTOR, 3 * 4096)
"""In turn: within the last track, out of it, by many, by whole ones."""

PRIMARY_STEPS = (
    Step("fdatasync", "group.record"),  # the intent
    Step("fdatasync", "v.acked"),  # the bitmaps' room
    Step("ftruncate", "v.img"),
    Step("fdatasync", "v.img"),
    Step("fdatasync", "group.record", 2),  # the size; nothing is served with it yet
    Step("ftruncate", "v.0.target", 2),  # the FlashCopy of the first cut after it
)
REMOTE_STEPS = (
    Step("fdatasync", "store"),  # the intent
    Step("ftruncate", "v.remote.img"),
    Step("fdatasync", "v.remote.img"),
    Step("fdatasync", "store", 2),  # the size, and those of the points
    Step("unlink", ".journal"),  # the first point of the new size is committed
)
START_STEPS = (
    Step("ftruncate", "v.img"),
    Step("fdatasync", "v.acked"),
    Step("fdatasync", "group.record", 4),  # read three times before it is written
)
"""Of a start that finishes a growth: the intent was durable, and nothing else."""

BOTH_STEPS = (
    ("primary", Step("ftruncate", "v.img")),
    ("remote", Step("fdatasync", "store")),  # the intent there
    ("remote", Step("fdatasync", "store", 2)),
)


class Host:
    """Writes sector after sector, and knows what the volume has to hold."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self.acknowledged = bytearray(FIRST)
        self.writes = 0
        self._pair = pair
        self._chance = random.Random(seed)
        self._in_doubt = range(0)
        self._doubtful = b""

    async def write(self, client: NbdClient, at: int) -> None:
        data = self._chance.randbytes(SECTOR)
        self._in_doubt, self._doubtful = range(at, at + SECTOR), data
        await client.write(at, data)
        self.acknowledged[at : at + SECTOR] = data
        self.writes += 1
        self._in_doubt = range(0)

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Write to the old area until the end of the block, or of the primary."""
        client = await self._pair.primary.nbd("g/v")
        is_over = asyncio.Event()

        async def work() -> None:
            with contextlib.suppress(ConnectionError):
                while not is_over.is_set():
                    sector = self._chance.randrange(FIRST // SECTOR)
                    await self.write(client, sector * SECTOR)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work())
            try:
                yield
            finally:
                is_over.set()

    async def judge(self, before: int, after: int) -> None:
        """Compare the volume with what was acknowledged, and take the rest from it."""
        found = await self._pair.primary.read_whole("g/v")
        assert len(found) in {before, after}
        assert len(found) == len(self._pair.content("v"))
        known = self.acknowledged.ljust(len(found), b"\0")
        if self._in_doubt:
            place = slice(self._in_doubt.start, self._in_doubt.stop)
            assert found[place] in (known[place], self._doubtful)
            known[place] = found[place]
        assert found == known
        self.acknowledged = known


async def ask(pair: Pair, size_bytes: int) -> int | None:
    """Grow, then cut; return the point's number, or None if a daemon died."""
    try:
        await grow(pair, size_bytes)
        cut = await pair.cut()
    except FarshoreError:
        return None
    return int(cut["number"])


async def grow(pair: Pair, size_bytes: int) -> int:
    grown = await asyncio.to_thread(
        pair.primary.call, "grow", group="g", volume="v", size_bytes=size_bytes
    )
    return int(grown["size_bytes"])


async def killed_as_it_grows(
    pair: Pair,
    host: Host,
    daemon: Daemon,
    step: Step,
    after: int,
    *,
    along: Daemon | None = None,
) -> None:
    """Grow and cut until the daemon dies at the step; hosts write meanwhile.

    `along` is killed with it.
    """
    async with asyncio.TaskGroup() as tasks, host.busy():
        begun = host.writes
        await until(lambda: host.writes > begun + 5, "the host writes")
        async with killed_after(daemon, step):
            tasks.create_task(ask(pair, after))
        if along is not None:
            along.kill()
        elif daemon is pair.remote:
            begun = host.writes
            await until(lambda: host.writes > begun + 5, "the host goes on")
            await daemon.start()


async def goes_on(pair: Pair, host: Host, after: int) -> None:
    """The growth, asked for again, and a write at the end reach the next point."""
    assert await grow(pair, after) == after
    client = await pair.primary.nbd("g/v")
    host.acknowledged = host.acknowledged.ljust(after, b"\0")
    await host.write(client, after - SECTOR)
    await client.disconnect()
    cut = await pair.cut()
    newest = await pair.remote.read_whole("g/v")
    assert len(newest) == after
    assert newest == host.acknowledged == pair.content("v")
    assert pair.group("g")["recovery_point"]["number"] == cut["number"]


@pytest.mark.hunt
async def test_a_primary_killed_as_a_volume_grows(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", FIRST)]) as pair:
        await pair.start()
        host = Host(pair, 1)
        for number, step in enumerate(PRIMARY_STEPS):
            before = len(host.acknowledged)
            after = before + GROWTHS[number % len(GROWTHS)]
            cut = await pair.cut()
            kept = await pair.remote.nbd(f"g/v@{cut['number']}")
            image = bytes(host.acknowledged)
            await killed_as_it_grows(pair, host, pair.primary, step, after)
            await pair.primary.start()
            await host.judge(before, after)
            await pair.connected()
            await goes_on(pair, host, after)
            assert kept.info.size_bytes == before
            assert await read_all(kept) == image
            await kept.disconnect()
        # Of a kill between the intent and the size the start makes a grown volume.
        assert len(pair.primary.events("growth_resumed")) >= 3


@pytest.mark.hunt
async def test_a_remote_killed_as_it_follows(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", FIRST)]) as pair:
        await pair.start()
        host = Host(pair, 2)
        for number, step in enumerate(REMOTE_STEPS):
            before = len(host.acknowledged)
            after = before + GROWTHS[number % len(GROWTHS)]
            cut = await pair.cut()
            image = bytes(host.acknowledged)
            await killed_as_it_grows(pair, host, pair.remote, step, after)
            await pair.connected()
            newest = pair.committed("g")
            if newest == cut["number"]:
                assert await pair.remote.read_whole("g/v") == image
            await host.judge(after, after)
            await goes_on(pair, host, after)
        # Killed with the size durable or not, it followed in one session or another.
        sizes = {event["size_bytes"] for event in pair.remote.events("volume_grown")}
        assert len(sizes) >= len(REMOTE_STEPS) - 1
        # What was asked for again was there, and nothing was ended for it.
        assert len(pair.primary.events("volume_grown")) == len(REMOTE_STEPS)


@pytest.mark.hunt
async def test_a_primary_killed_again_as_it_finishes_a_growth(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", FIRST)]) as pair:
        await pair.start()
        host = Host(pair, 3)
        for number, step in enumerate(START_STEPS):
            before = len(host.acknowledged)
            after = before + GROWTHS[number % len(GROWTHS)]
            cut = await pair.cut()
            image = bytes(host.acknowledged)
            await killed_as_it_grows(pair, host, pair.primary, PRIMARY_STEPS[0], after)
            pair.primary.spawn()
            pair.primary.pause()  # nothing is done before it is watched
            async with killed_after(pair.primary, step):
                pair.primary.resume()
            await pair.primary.start()
            # The intent was durable: the growth is finished, however often begun.
            await host.judge(after, after)
            assert await pair.remote.read_whole(f"g/v@{cut['number']}") == image
            await pair.connected()
            await goes_on(pair, host, after)


@pytest.mark.hunt
async def test_both_sites_killed_at_once_as_a_volume_grows(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", FIRST)]) as pair:
        await pair.start()
        host = Host(pair, 4)
        for number, (role, step) in enumerate(BOTH_STEPS):
            before = len(host.acknowledged)
            after = before + GROWTHS[number % len(GROWTHS)]
            cut = await pair.cut()
            image = bytes(host.acknowledged)
            first, second = pair.primary, pair.remote
            if role == "remote":
                first, second = second, first
            await killed_as_it_grows(pair, host, first, step, after, along=second)
            await pair.remote.start()
            assert await pair.remote.read_whole(f"g/v@{cut['number']}") == image
            await pair.primary.start()
            await host.judge(before, after)
            await pair.connected()
            await goes_on(pair, host, after)


@pytest.mark.hunt
async def test_a_takeover_where_the_remote_was_killed_as_it_followed(
    tmp_path: Path,
) -> None:
    """The device is as long as the volume has become, and no point of it has come."""
    after = FIRST + MIB + SECTOR
    with Pair(tmp_path, [VolumeSpec("v", FIRST)]) as pair:
        await pair.start()
        image = bytes(await pair.primary.read_whole("g/v"))
        await pair.cut()
        async with asyncio.TaskGroup() as tasks:
            async with killed_after(pair.remote, Step("ftruncate", "v.remote.img")):
                tasks.create_task(ask(pair, after))
            pair.primary.kill()
        await pair.remote.start()
        taken = await asyncio.to_thread(
            run_cli, "takeover", "g", "--yes", "--socket", pair.remote.control_socket
        )
        assert taken.returncode == 0, taken.stderr
        for _ in range(2):
            served = bytes(await pair.remote.read_whole("g/v"))
            assert served == image + bytes(after - FIRST)
            await pair.remote.stop()
            await pair.remote.start()
