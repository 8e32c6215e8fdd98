"""Writes of a connection that has ended never land on newer ones (I8).

A host that lost its connection attaches again, sends its unanswered writes once
more and goes on. What the old connection left behind (in a thread, in a queue, in
the socket) is older than all of that. And a FLUSH is for every write answered so
far, over whichever connection. FARSHORE_GHOST_ROUNDS sets the rounds of the random
test, FARSHORE_SEED its chances.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import pytest

from tests.support.faulty_disk import FaultyDisk
from tests.support.hostile_clients import Ending, end_client
from tests.support.nbd_client import NbdClient
from tests.support.primary_host_site import Stopped, reached
from tests.support.sites import Pair, VolumeSpec

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_package("fusermount3")]

ROUNDS = int(os.environ.get("FARSHORE_GHOST_ROUNDS", "15"))
SEED = int(os.environ.get("FARSHORE_SEED", "1"))

MIB = 1 << 20
SIZE_BYTES = 8 * MIB
BLOCK_BYTES = 4096
BLOCKS = 16
REQUESTS_IN_FLIGHT_MAX = 128
"""Of one connection, by default; more stay in the socket, and on TCP hide its end."""
REQUESTS_MAX = 300

OTHERS_ROUND_TRIPS = 100
"""What a server that does not wait would need far less than to write newer data."""

JITTER_SECONDS = 0.004


class Host:
    """The daemon, its disk, and connections to the volume on it."""

    def __init__(self, pair: Pair, disk: FaultyDisk, address: str) -> None:
        self.pair = pair
        self.disk = disk
        self.address = address
        self.clients: list[NbdClient] = []

    def requests_max(self, endings: Iterable[Ending]) -> int:
        """Return how many requests clients that end so may leave behind.

        One that has closed its half on TCP behind what is unread is alive and
        waits for its replies: all that it sent is run, as for anybody who lives.
        """
        is_tcp = self.address.startswith("tcp:")
        is_alive = is_tcp and Ending.HALF_CLOSE in endings
        return REQUESTS_IN_FLIGHT_MAX if is_alive else REQUESTS_MAX

    async def connect(self, export: str = "g/v") -> NbdClient:
        client = await NbdClient.connect(self.address, export)
        self.clients.append(client)
        return client

    def on_disk(self) -> bytes:
        return (self.disk.backing / "v.img").read_bytes()[: BLOCKS * BLOCK_BYTES]


@pytest.fixture(params=["unix", "tcp"])
async def host(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    with FaultyDisk(tmp_path / "disk") as disk:
        (tmp_path / "v.img").symlink_to(disk.path / "v.img")
        volumes, others = [VolumeSpec("v", SIZE_BYTES)], [VolumeSpec("o", MIB)]
        with Pair(tmp_path, volumes, others=others, tcp=True) as pair:
            await pair.primary.start()
            is_tcp = request.param == "tcp"
            address = pair.tcp_address if is_tcp else pair.primary.nbd_address
            found = Host(pair, disk, address)
            yield found
            for client in found.clients:
                client.abort()
            disk.rules.clear()
            before = found.on_disk()
            await pair.primary.stop()
            assert found.on_disk() == before, "something was written at the end"


Leave = Callable[[NbdClient, int], list[Awaitable[object]]]


def many_writes(client: NbdClient, count: int) -> list[Awaitable[object]]:
    """Some get to threads, some wait for one, some stay in the socket."""
    return [
        client.write(n % BLOCKS * BLOCK_BYTES, b"old!" * (BLOCK_BYTES // 4))
        for n in range(count)
    ]


def one_long_write(client: NbdClient, _count: int) -> list[Awaitable[object]]:
    """It is written slice by slice."""
    return [client.write(0, b"old!" * MIB)]


@pytest.mark.parametrize("leave", [many_writes, one_long_write])
@pytest.mark.parametrize("how", Ending)
async def test_what_a_replaced_connection_left_never_lands_on_newer_data(
    host: Host, leave: Leave, how: Ending
) -> None:
    other = await host.connect("h/o")
    old = await host.connect()
    await old.write(0, b"before")
    held = Stopped("write", "v.img")
    host.disk.rules.append(held)
    left = leave(old, host.requests_max([how]))
    await reached(held)
    end_client(old, how)
    new = await host.connect()
    data = random.Random(SEED).randbytes(BLOCKS * BLOCK_BYTES)
    writes = [
        new.write(at, data[at : at + BLOCK_BYTES])
        for at in range(0, len(data), BLOCK_BYTES)
    ]
    # A server that lets them pass the old ones has time for it now.
    for _ in range(OTHERS_ROUND_TRIPS):
        await other.read(0, 512)
    held.go()
    await asyncio.gather(*writes)
    await new.flush()
    old.abort()
    await asyncio.gather(*left, return_exceptions=True)
    assert await new.read(0, len(data)) == data
    assert host.on_disk() == data


async def test_random_rounds_of_hosts_that_lose_their_connections(host: Host) -> None:
    """In each the newest data wins, and stays until the next round."""
    print(f"FARSHORE_SEED={SEED}")
    chance = random.Random(SEED)
    guard = threading.Lock()

    def jitter(operation: str, path: str, _offset: int) -> None:
        if operation == "write":
            with guard:
                seconds = chance.choice((0, 0, chance.uniform(0, JITTER_SECONDS)))
            time.sleep(seconds)

    host.disk.rules.append(jitter)
    image = bytes(BLOCKS * BLOCK_BYTES)
    new = [await host.connect()]
    for number in range(ROUNDS):
        assert await new[0].read(0, len(image)) == image, f"round {number}"
        old, new = new, []
        left: list[Awaitable[object]] = []
        endings = chance.choices(list(Ending), k=len(old))
        most = host.requests_max(endings)
        for client in old:
            left += scatter(client, chance, chance.randint(1, most))
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(chance.uniform(0, JITTER_SECONDS))
        for client, how in zip(old, endings, strict=True):
            end_client(client, how)
        new = [await host.connect() for _ in range(chance.randint(1, 3))]
        image = chance.randbytes(len(image))
        # Spread over all connections: one host, or one of several that work together.
        await asyncio.gather(
            *(
                new[at // BLOCK_BYTES % len(new)].write(
                    at, image[at : at + BLOCK_BYTES]
                )
                for at in range(0, len(image), BLOCK_BYTES)
            )
        )
        await chance.choice(new).flush()
        assert host.on_disk() == image, f"round {number}"
        for client in old:
            client.abort()
        await asyncio.gather(*left, return_exceptions=True)


def scatter(
    client: NbdClient, chance: random.Random, count: int
) -> list[Awaitable[object]]:
    """Send writes of any length and place, trims and zeroings, all at once."""
    sent: list[Awaitable[object]] = []
    for _ in range(count):
        first = chance.randrange(BLOCKS * 8)
        length = min(chance.randint(1, 24), BLOCKS * 8 - first) * 512
        choice = chance.random()
        if choice < 0.8:
            sent.append(client.write(first * 512, chance.randbytes(length)))
        elif choice < 0.9:
            sent.append(client.trim(first * 512, length))
        else:
            sent.append(client.write_zeroes(first * 512, length, no_hole=True))
    return sent


class Recorder:
    """A rule: counts flushes of the device as they begin, and where writes went."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.flushes = 0

    def __call__(self, operation: str, path: str, offset: int) -> None:
        if operation == "datasync":
            self.flushes += 1
        if operation in {"write", "datasync"}:
            self.events.append((operation, offset))
            time.sleep(JITTER_SECONDS / 4)  # the next ones come while this one runs


async def test_a_flush_is_for_the_answered_writes_of_all_connections(
    host: Host,
) -> None:
    """An answered flush, or FUA, has a device flush that began after it was asked."""
    recorder = Recorder()
    host.disk.rules.append(recorder)
    clients = [await host.connect() for _ in range(4)]
    chance = random.Random(SEED)
    flushed = forced = 0

    async def work(number: int) -> None:
        nonlocal flushed, forced
        for turn in range(40):
            offset = (number * 40 + turn) * BLOCK_BYTES
            if chance.random() < 0.5:
                await clients[number].write(offset, b"w" * BLOCK_BYTES)
                begun = recorder.flushes
                await chance.choice(clients).flush()
                assert recorder.flushes > begun, "no flush of the device since"
                flushed += 1
            else:
                await clients[number].write(offset, b"f" * BLOCK_BYTES, fua=True)
                written = recorder.events.index(("write", offset))
                assert ("datasync", 0) in recorder.events[written:]
                forced += 1

    await asyncio.gather(*(work(number) for number in range(len(clients))))
    assert flushed > 20
    assert forced > 20
    assert recorder.flushes < flushed + forced, "those that wait together share one"
