"""Crowds of clients that say nothing, stop halfway or never read: hosts get in.

A silent client costs a descriptor and little memory, and loses its place to whoever
comes later. One that stops within a request, or never reads its replies, is held to
the limits of one connection and aborted in time. All of it over both kinds of
socket, against a real daemon whose figures are read in /proc.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from common.nbd.limits import NbdLimits
from common.nbd.protocol import Command, Option
from tests.support.hostile_clients import Ending, StoppingClient, option, request
from tests.support.memory_volume import MemoryVolume
from tests.support.nbd_client import NbdClient, counted
from tests.support.nbd_server import serving
from tests.support.process_figures import descriptor_count, resident_bytes
from tests.support.round_trips import Probe, probing
from tests.support.sites import PATIENCE_SECONDS, Pair, VolumeSpec, until

CROWD = int(os.environ.get("FARSHORE_CROWD", "800"))

KIB, MIB = 1 << 10, 1 << 20
SIZE_BYTES = 64 * MIB
EXPORT = "g/v"

GET_IN_SECONDS = 2.0
"""The real host attaches, writes and reads within this, whoever else is there."""

HOSTS = 12
"""Times that it attaches, while the crowd comes and while it stands there."""

HANDSHAKES_MAX = 200
"""Clients in their handshake that the server bears with."""

HANDSHAKE_BYTES_MAX = 256 * KIB
"""Of memory, of one of them: 64 KiB of option data as it grows, and itself."""

SLACK_BYTES = 24 * MIB
"""Allocators and threads; see test_nbd_endings.py."""


# -- clients that stop in their handshake ----------------------------------------------


def silent(_client: StoppingClient) -> None:
    """Connected, and that is all."""


def greeted(client: StoppingClient) -> None:
    client.greet()


def within_an_option_header(client: StoppingClient) -> None:
    client.greet()
    client.send(option(Option.GO, bytes(64))[:11])


def within_the_longest_option(client: StoppingClient) -> None:
    client.greet()
    client.send(option(Option.GO, bytes(64 * KIB))[: 60 * KIB])


def with_an_export_held_open(client: StoppingClient) -> None:
    client.greet()
    client.option(Option.INFO, counted(EXPORT) + b"\0\0")


IN_HANDSHAKE = [
    silent,
    greeted,
    within_an_option_header,
    within_the_longest_option,
    with_an_export_held_open,
]


# -- clients that stop in transmission -------------------------------------------------


def idle(client: StoppingClient) -> None:
    client.go(EXPORT)


def within_a_request_header(client: StoppingClient) -> None:
    client.go(EXPORT)
    client.send(request(Command.WRITE, 0, 4096)[:17])


def within_a_payload(client: StoppingClient) -> None:
    client.go(EXPORT)
    client.send(request(Command.WRITE, 0, MIB, bytes(MIB // 2)))


def never_reading(client: StoppingClient) -> None:
    """Ask for far more than anybody may have in flight; read nothing of it."""
    client.go(EXPORT)
    send_until_full(
        client, b"".join(request(Command.READ, 0, MIB, cookie=n) for n in range(2000))
    )


def never_reading_small_replies(client: StoppingClient) -> None:
    client.go(EXPORT)
    send_until_full(
        client,
        b"".join(request(Command.READ, n * 512, 512, cookie=n) for n in range(20_000)),
    )


def send_until_full(client: StoppingClient, data: bytes) -> None:
    """Send until nothing more is taken for a while, as far as it goes."""
    client.socket.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        client.socket.sendall(data)


class Crowd:
    """Clients that stay connected for as long as the server lets them."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses
        self.clients: list[StoppingClient] = []

    def join(self, behaviour: Callable[[StoppingClient], None], number: int) -> None:
        """Add one; that the server has enough of it meanwhile is its good right."""
        address = self._addresses[number % len(self._addresses)]
        with contextlib.suppress(OSError):
            client = StoppingClient(address)
            self.clients.append(client)
            behaviour(client)

    def leave(self) -> None:
        for client in self.clients:
            client.end(Ending.CLOSE)
        self.clients.clear()

    def standing(self) -> int:
        """Return how many of them the server has not dropped."""
        return sum(1 for client in self.clients if not is_dropped(client.socket))


def is_dropped(connection: socket.socket) -> bool:
    """Tell whether the server has closed it, leaving what it sent unread."""
    connection.setblocking(False)
    try:
        # What waits is at most a greeting; its end comes after it.
        while True:
            if not connection.recv(1 << 16):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextlib.contextmanager
def crowd_at(pair: Pair) -> Iterator[Crowd]:
    made = Crowd([pair.primary.nbd_address, pair.tcp_address])
    try:
        yield made
    finally:
        made.leave()


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """The crowd's own sockets are this process's: 800 and some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CROWD + 1000
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def made(tmp_path: Path, **limits: object) -> Pair:
    return Pair(
        tmp_path,
        [VolumeSpec("v", SIZE_BYTES), VolumeSpec("near", MIB)],
        others=[VolumeSpec("far", MIB)],
        nbd={"limits": limits},
        tcp=True,
    )


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    with made(tmp_path) as found:
        await found.start()
        for export in ("g/v", "g/near", "h/far"):
            await get_in(found.primary.nbd_address, export)
        yield found
        await found.primary.stop()


async def get_in(address: str, export: str) -> float:
    """Attach as a host, write, read back, leave; return how long that took."""
    began = time.monotonic()
    client = await NbdClient.connect(address, export)
    data = random.Random(began).randbytes(4096)
    await client.write(0, data)
    assert await client.read(0, len(data)) == data
    took = time.monotonic() - began
    await client.disconnect()
    return took


async def test_silent_clients_keep_no_host_out(pair: Pair) -> None:
    addresses = [pair.primary.nbd_address, pair.tcp_address]
    before = descriptor_count(pair.primary)
    memory = resident_bytes(pair.primary)
    peak = 0
    arrived = threading.Event()

    with crowd_at(pair) as crowd:

        def come() -> None:
            for number in range(CROWD):
                crowd.join(IN_HANDSHAKE[number % len(IN_HANDSHAKE)], number // 2)
            arrived.set()

        standing = await NbdClient.connect(addresses[0], "h/far")
        coming = asyncio.create_task(asyncio.to_thread(come))
        took: list[float] = []
        try:
            while len(took) < HOSTS or not arrived.is_set():
                took.append(await get_in(addresses[len(took) % 2], EXPORT))
                peak = max(peak, resident_bytes(pair.primary))
        finally:
            await coming
        # The crowd is complete, and stays as long as it may: once more.
        took += [await get_in(addresses[n % 2], EXPORT) for n in range(HOSTS)]
        peak = max(peak, resident_bytes(pair.primary))
        assert await standing.read(0, 512) is not None, "those that are in stay in"
        await standing.disconnect()
        print(
            f"{len(crowd.clients)} came, {crowd.standing()} stand; a host got in "
            f"within {max(took) * 1e3:.0f} ms at worst; "
            f"{(peak - memory) / MIB:.1f} MiB more memory"
        )
        assert len(crowd.clients) == CROWD
        assert max(took) < GET_IN_SECONDS
        assert peak - memory < HANDSHAKES_MAX * HANDSHAKE_BYTES_MAX + SLACK_BYTES
    await until(lambda: descriptor_count(pair.primary) <= before, "descriptors return")
    # More of them cost nothing more: what the first crowd took was given back.
    with crowd_at(pair) as crowd:
        for number in range(2 * CROWD):
            await asyncio.to_thread(crowd.join, within_the_longest_option, number)
        used = resident_bytes(pair.primary) - memory
        assert used < HANDSHAKES_MAX * HANDSHAKE_BYTES_MAX + SLACK_BYTES
    await until(lambda: descriptor_count(pair.primary) <= before, "descriptors return")


async def test_silent_clients_are_dropped_when_their_time_is_up(tmp_path: Path) -> None:
    with made(tmp_path, handshake_timeout="1s") as pair:
        await pair.start()
        await get_in(pair.primary.nbd_address, EXPORT)
        before = descriptor_count(pair.primary)
        with crowd_at(pair) as crowd:
            for number in range(60):
                crowd.join(IN_HANDSHAKE[number % len(IN_HANDSHAKE)], number)
            await until(lambda: crowd.standing() == 0, "all of them are dropped")
            assert descriptor_count(pair.primary) <= before
        await pair.primary.stop()


async def test_clients_that_stop_in_transmission_hold_up_nobody_else(
    pair: Pair,
) -> None:
    """Neither another volume, nor their own, nor the control socket."""
    memory = resident_bytes(pair.primary)
    before = descriptor_count(pair.primary)
    behaviours = [idle, within_a_request_header, within_a_payload] * 8

    def probe(export: str) -> Probe:
        return Probe(export, lambda: get_in(pair.tcp_address, export))

    probes = [probe(export) for export in ("g/v", "g/near", "h/far")]
    control = Probe(
        "control socket", lambda: asyncio.to_thread(pair.primary.call, "status")
    )
    with crowd_at(pair) as crowd:
        async with probing(*probes, control):
            for number, behaviour in enumerate(behaviours):
                await asyncio.to_thread(crowd.join, behaviour, number)
            await until(lambda: len(control.seconds) > 20, "round trips")
        # They are legal, and stay: a slow host is a host.
        assert crowd.standing() == len(behaviours)
        used = resident_bytes(pair.primary) - memory
        assert used < len(behaviours) * 2 * MIB + SLACK_BYTES
    for each in (*probes, control):
        assert not each.longer_than(GET_IN_SECONDS), str(each)
    await until(lambda: descriptor_count(pair.primary) <= before, "descriptors return")


IN_FLIGHT_BYTES = 8 * MIB
WRITE_BUFFER_BYTES = 4 * MIB
"""Replies that wait for a slow reader, and the one that went over the bound."""

NEVER_READERS = 10


async def test_clients_that_never_read_cost_no_more_than_their_limits(
    tmp_path: Path,
) -> None:
    with made(tmp_path, bytes_in_flight_max=f"{IN_FLIGHT_BYTES}B") as pair:
        await pair.start()
        host = await NbdClient.connect(pair.primary.nbd_address, EXPORT)
        data = random.Random(1).randbytes(4 * MIB)
        for at in range(0, SIZE_BYTES, len(data)):
            await host.write(at, data)
        for export in ("g/near", "h/far"):
            await get_in(pair.primary.nbd_address, export)
        memory = resident_bytes(pair.primary)
        before = descriptor_count(pair.primary)

        async def read_back() -> None:
            assert await host.read(0, MIB) == data[:MIB]

        probes = [
            Probe("the same volume", read_back),
            Probe("the same group", lambda: get_in(pair.tcp_address, "g/near")),
            Probe("another group", lambda: get_in(pair.tcp_address, "h/far")),
        ]
        with crowd_at(pair) as crowd:
            async with probing(*probes):
                for number in range(NEVER_READERS):
                    behaviour = (never_reading, never_reading_small_replies)[number % 2]
                    await asyncio.to_thread(crowd.join, behaviour, number // 2)
                counts = [len(probe.seconds) for probe in probes]
                await until(
                    lambda: all(
                        len(probe.seconds) > count + 20
                        for probe, count in zip(probes, counts, strict=True)
                    ),
                    "round trips while they stand there",
                )
            used = resident_bytes(pair.primary) - memory
            print(f"{NEVER_READERS} never read: {used / MIB:.1f} MiB more memory")
            each = IN_FLIGHT_BYTES + WRITE_BUFFER_BYTES + 2 * MIB
            assert used < NEVER_READERS * each + SLACK_BYTES
        for probe in probes:
            assert not probe.longer_than(GET_IN_SECONDS), str(probe)
        await until(
            lambda: descriptor_count(pair.primary) <= before, "descriptors return"
        )
        await host.disconnect()
        await pair.primary.stop()


# -- in time, they are aborted ---------------------------------------------------------


def trickle(client: StoppingClient) -> bool:
    """Send a long payload byte by byte; tell whether the server had enough of it."""
    client.go(EXPORT)
    client.send(request(Command.WRITE, 0, 4 * MIB))
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up_at:
        try:
            client.send(b"x")
        except OSError:
            return True
        time.sleep(0.01)
    return False


async def test_who_does_not_go_on_is_aborted_and_who_idles_is_not(
    tmp_path: Path,
) -> None:
    limits = NbdLimits(progress_seconds=0.4, reply_seconds=0.4)
    volumes = {EXPORT: MemoryVolume(8 * MIB)}
    async with serving(tmp_path, volumes, limits) as served:
        host = await served.client()
        await host.write(0, b"host")
        stuck = [within_a_request_header, within_a_payload, never_reading]
        clients = [StoppingClient(served.address) for _ in stuck]
        slow = StoppingClient(served.address)
        resting = StoppingClient(served.address)
        try:
            await asyncio.to_thread(idle, resting)
            for client, behaviour in zip(clients, stuck, strict=True):
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(behaviour, client)
            assert await asyncio.to_thread(trickle, slow)
            await until(
                lambda: served.server.connection_count == 2, "all but two are aborted"
            )
            assert not is_dropped(resting.socket)
            assert await host.read(0, 4) == b"host"
        finally:
            for client in (*clients, slow, resting):
                client.socket.close()
        await host.disconnect()
