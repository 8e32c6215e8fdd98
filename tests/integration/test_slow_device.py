"""One device takes half a second for each I/O; nobody else notices.

Others are a volume of the same group, a volume of another group, the control
socket and the links. They are watched from outside, by round trips: one that
waited for the slow device takes at least as long as one of its operations. The
device's own host is served as well as the device can.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.faulty_disk import FaultyDisk, Slow
from tests.support.nbd_client import NbdClient
from tests.support.round_trips import Probe, probing
from tests.support.sites import Pair, VolumeSpec, until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_package("fusermount3")]

MIB = 1 << 20
SIZE_BYTES = 4 * MIB
BLOCK_BYTES = 4096
SLOW_SECONDS = 0.5
SLOW_OPERATIONS = int(os.environ.get("FARSHORE_SLOW_OPERATIONS", "12"))
"""Operations of the slow device that the others are watched for."""

TURNS = 2
PROOFS = 300
PROOF_SECONDS = 1.5
"""A daemon may mistrust for a while a device that has been slow before."""

DEPTH = 8


class Hosts:
    """The sites, the slow disk, and a host for each volume."""

    def __init__(self, pair: Pair, slow: Slow, disk: FaultyDisk) -> None:
        self.pair = pair
        self.slow = slow
        self.disk = disk
        self.clients: list[NbdClient] = []

    async def connect(self, export: str) -> NbdClient:
        client = await self.pair.primary.nbd(export)
        self.clients.append(client)
        return client

    async def probe(self, export: str) -> Probe:
        """Return a probe that writes, then reads back, one block."""
        client = await self.connect(export)
        chance = random.Random(export)

        async def once() -> None:
            offset = chance.randrange(SIZE_BYTES // BLOCK_BYTES) * BLOCK_BYTES
            data = chance.randbytes(BLOCK_BYTES)
            await client.write(offset, data)
            assert await client.read(offset, BLOCK_BYTES) == data

        await once()  # heats the region, which waits for a disk
        return Probe(export, once)

    def status(self) -> Probe:
        return Probe(
            "control socket",
            lambda: asyncio.to_thread(self.pair.primary.call, "status"),
        )

    @contextlib.asynccontextmanager
    async def busy(self, export: str, *, depth: int = DEPTH) -> AsyncIterator[None]:
        """Keep `depth` requests in flight: writes, reads and now and then a FLUSH."""
        client = await self.connect(export)
        chance = random.Random(7)

        async def work() -> None:
            while True:
                offset = chance.randrange(SIZE_BYTES // BLOCK_BYTES) * BLOCK_BYTES
                choice = chance.random()
                if choice < 0.1:
                    await client.flush()
                elif choice < 0.4:
                    await client.read(offset, BLOCK_BYTES)
                else:
                    await client.write(offset, chance.randbytes(BLOCK_BYTES))

        tasks = [asyncio.create_task(work()) for _ in range(depth)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ended:
            if isinstance(end, Exception):
                raise end

    async def operations(self, count: int) -> None:
        """Wait until the slow device was asked for so many more."""
        wanted = self.slow.met + count
        await until(lambda: self.slow.met >= wanted, f"{count} slow operations")


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    with FaultyDisk(tmp_path / "disk") as disk:
        slow = Slow("slow.img", 0)
        disk.rules.append(slow)
        (tmp_path / "slow.img").symlink_to(disk.path / "slow.img")
        volumes = [VolumeSpec("slow", SIZE_BYTES), VolumeSpec("near", SIZE_BYTES)]
        with Pair(
            tmp_path, volumes, others=[VolumeSpec("far", SIZE_BYTES)], tcp=True
        ) as pair:
            await pair.start()
            found = Hosts(pair, slow, disk)
            yield found
            slow.seconds = 0
            for client in found.clients:
                client.abort()
            await pair.primary.stop()


async def test_another_group_and_the_control_socket_do_not_wait(hosts: Hosts) -> None:
    far, status = await hosts.probe("h/far"), hosts.status()
    pair = hosts.pair
    async with hosts.busy("g/slow"):
        hosts.slow.seconds = SLOW_SECONDS
        await hosts.operations(1)
        committed = pair.committed("h")
        async with probing(far, status):
            await hosts.operations(SLOW_OPERATIONS)
        assert pair.committed("h") > committed, "its cycles go on"
        assert pair.is_connected()
    assert not far.longer_than(SLOW_SECONDS)
    assert not status.longer_than(SLOW_SECONDS)
    for daemon in pair.daemons:
        assert not daemon.events("link_lost"), daemon.events("link_lost")


async def test_a_volume_of_the_same_group_waits_for_one_slow_operation_at_most(
    hosts: Hosts,
) -> None:
    """It has proved fast, and turns slow from one moment to the next, repeatedly."""
    near = await hosts.probe("g/near")
    client = await hosts.connect("g/slow")
    for _ in range(TURNS):
        await prove_fast(hosts, client)
        async with probing(near):
            await until(lambda: len(near.seconds) > 20, "round trips")
            hosts.slow.seconds = SLOW_SECONDS
            # In one segment: the daemon finds them all before it knows.
            writes = [
                client.write(n * BLOCK_BYTES, b"s" * BLOCK_BYTES) for n in range(DEPTH)
            ]
            await hosts.operations(DEPTH)
            hosts.slow.seconds = 0
            await asyncio.gather(*writes)
        assert len(near.longer_than(SLOW_SECONDS)) <= 1, str(near)
        assert not near.longer_than(2 * SLOW_SECONDS), str(near)
        near.seconds.clear()


async def prove_fast(hosts: Hosts, client: NbdClient) -> None:
    """Write often and fast enough for any daemon to take the device for fast."""
    hosts.slow.seconds = 0
    began = time.monotonic()
    for n in itertools.count():
        await client.write(n % DEPTH * BLOCK_BYTES, b"f" * BLOCK_BYTES)
        if n >= PROOFS and time.monotonic() - began > PROOF_SECONDS:
            return


@pytest.mark.hunt
async def test_hosts_come_and_go_while_a_device_is_slow(hosts: Hosts) -> None:
    pair = hosts.pair

    async def visit(export: str) -> None:
        client = await pair.primary.nbd(export)
        await client.disconnect()

    async with hosts.busy("g/slow"):
        hosts.slow.seconds = SLOW_SECONDS
        await hosts.operations(1)
        visits = Probe("attach to the other group", lambda: visit("h/far"))
        async with probing(visits):
            await hosts.operations(SLOW_OPERATIONS)
    assert not visits.longer_than(SLOW_SECONDS)


async def test_a_cut_holds_other_writes_no_longer_than_hold_max(hosts: Hosts) -> None:
    """Writes on their way to the slow device keep a cut from its instant."""
    near = await hosts.probe("g/near")
    pair = hosts.pair
    async with hosts.busy("g/slow"):
        hosts.slow.seconds = SLOW_SECONDS
        await hosts.operations(DEPTH)
        async with probing(near):
            cut = asyncio.create_task(pair.cut())
            await asyncio.wait([cut])
    # With its retries it has starved, or found a moment between two slow writes.
    if cut.exception() is not None:
        assert "hold_max" in str(cut.exception())
    assert not near.longer_than(SLOW_SECONDS)


async def test_it_stops_in_order_while_requests_wait_for_the_device(
    hosts: Hosts,
) -> None:
    client = await hosts.connect("g/slow")
    await client.write(0, bytes(BLOCK_BYTES))
    hosts.slow.seconds = SLOW_SECONDS
    writes = [client.write(n * BLOCK_BYTES, b"w" * BLOCK_BYTES) for n in range(DEPTH)]
    await hosts.operations(1)
    await hosts.pair.primary.stop()
    ended = await asyncio.gather(*writes, return_exceptions=True)
    image = (hosts.disk.backing / "slow.img").read_bytes()
    replied = [n for n, end in enumerate(ended) if end is None]
    assert replied, "what was under way is answered before the end"
    for n in replied:
        block = image[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES]
        assert block == b"w" * BLOCK_BYTES
    await hosts.pair.primary.start()
