"""Connections end in every state of the protocol, in every way a socket can.

After all of it the daemon has what it had before: descriptors, memory, idle
processor; its log tells of no exception; other hosts never noticed; and it stops
in order, which it could not if a connection or a request were left over.
FARSHORE_ENDING_ROUNDS sets how often the table is gone through.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from common.nbd.protocol import Command, Option
from tests.support.hostile_clients import (
    Ending,
    StoppingClient,
    option,
    request,
)
from tests.support.nbd_client import NbdClient, counted
from tests.support.process_figures import (
    cpu_seconds,
    descriptor_count,
    resident_bytes,
)
from tests.support.sites import PATIENCE_SECONDS, Pair, VolumeSpec, until

ROUNDS = int(os.environ.get("FARSHORE_ENDING_ROUNDS", "8"))

MIB = 1 << 20
SIZE_BYTES = 8 * MIB
LOW_BYTES = MIB // 2
"""What is below belongs to those who end; above, a host checks what it wrote."""

EXPORT = "g/v"
GO = counted(EXPORT) + b"\0\0"
WARM_ROUNDS = 3
"""After so many, each thread's allocator has grown as far as it will."""

LEFT_OVER_BYTES = 64 * MIB
"""Memory may still grow by this, from fragmentation. A round is some two hundred
connections: 64 KiB left behind by each would be more."""

IDLE_SHARE_MAX = 0.3
"""Of one processor; a loop that spins over a dead socket takes a whole one."""

State = Callable[[StoppingClient], None]


def sent(data: bytes) -> State:
    """In transmission, after having sent this."""

    def reach(client: StoppingClient) -> None:
        client.go(EXPORT)
        client.send(data)

    return reach


def greeted(data: bytes) -> State:
    """In the handshake, after having sent this."""

    def reach(client: StoppingClient) -> None:
        client.greet()
        client.send(data)

    return reach


def asked(*options: tuple[int, bytes]) -> State:
    """In the handshake, after these options were answered."""

    def reach(client: StoppingClient) -> None:
        client.greet()
        for number, data in options:
            client.option(number, data)

    return reach


BLOCK = bytes(4096)
STATES: dict[str, State] = {
    "connected": lambda client: None,
    "greeting taken": lambda client: client.discard(18),
    "half of the client flags": lambda client: client.send(b"\0\0"),
    "client flags": lambda client: client.greet(),
    "half an option header": greeted(option(Option.LIST)[:9]),
    "option header without its data": greeted(option(Option.GO, GO)[:16]),
    "half of an option's data": greeted(option(Option.GO, GO)[:20]),
    "LIST, answer unread": greeted(option(Option.LIST)),
    "LIST answered": asked((Option.LIST, b"")),
    "structured replies agreed": asked((Option.STRUCTURED_REPLY, b"")),
    "INFO answered, export held open": asked((Option.INFO, GO)),
    "unknown export": asked((Option.GO, counted("no/such") + b"\0\0")),
    "GO, answer unread": greeted(option(Option.GO, GO)),
    "EXPORT_NAME, answer unread": greeted(option(Option.EXPORT_NAME, EXPORT.encode())),
    "ABORT, answer unread": greeted(option(Option.ABORT)),
    "GO and a request in one segment": greeted(
        option(Option.GO, GO) + request(Command.READ, 0, 4096)
    ),
    "transmission": sent(b""),
    "transmission with simple replies": lambda client: client.go(
        EXPORT, structured=False
    ),
    "half a request header": sent(request(Command.READ, 0, 512)[:13]),
    "WRITE header without payload": sent(request(Command.WRITE, 0, 4096)),
    "half a short payload": sent(request(Command.WRITE, 0, 4096, BLOCK[:100])),
    "half a long payload": sent(request(Command.WRITE, 0, 4 * MIB, bytes(MIB))),
    "half a refused payload": sent(
        request(Command.WRITE, SIZE_BYTES - 512, 4 * MIB, bytes(MIB))
    ),
    "payload longer than any": sent(request(Command.WRITE, 0, 0xFFFFFFFF, BLOCK)),
    "WRITE, reply unread": sent(request(Command.WRITE, 0, 4096, BLOCK)),
    "READ, reply unread": sent(request(Command.READ, 0, 4 * MIB)),
    "many READs, replies unread": sent(
        b"".join(request(Command.READ, 0, MIB, cookie=n) for n in range(64))
    ),
    "many WRITEs, replies unread": sent(
        b"".join(request(Command.WRITE, 0, 4096, BLOCK, cookie=n) for n in range(40))
    ),
    "FLUSH, reply unread": sent(
        request(Command.WRITE, 0, 4096, BLOCK) + request(Command.FLUSH, 0, 0)
    ),
    "TRIM, reply unread": sent(request(Command.TRIM, 0, LOW_BYTES)),
    "zeroing, reply unread": sent(request(Command.WRITE_ZEROES, 0, LOW_BYTES)),
    "BLOCK_STATUS, reply unread": sent(request(Command.BLOCK_STATUS, 0, SIZE_BYTES)),
    "refused request, reply unread": sent(request(77, 0, 512)),
    "request without its magic": sent(b"\xff" * 28),
    "DISC": sent(request(Command.DISC, 0, 0)),
    "DISC while others run": sent(
        b"".join(request(Command.WRITE, 0, 4096, BLOCK, cookie=n) for n in range(8))
        + request(Command.FLUSH, 0, 0)
        + request(Command.DISC, 0, 0)
    ),
}


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    volumes, others = [VolumeSpec("v", SIZE_BYTES)], [VolumeSpec("o", MIB)]
    with Pair(tmp_path, volumes, others=others, tcp=True) as made:
        await made.start()  # a link that comes and goes would have descriptors too
        yield made


def end_everywhere(address: str) -> None:
    """Reach each state, and end there, in each way."""
    for name, reach in STATES.items():
        for how in Ending:
            try:
                client = StoppingClient(address, patience_seconds=PATIENCE_SECONDS)
                try:
                    reach(client)
                    # The server may be the first to hang up, where it has to.
                    with contextlib.suppress(OSError):
                        client.end(how)
                finally:
                    client.socket.close()
            except OSError as error:
                raise AssertionError(f"{name}, {how.value}, {address}") from error


@contextlib.asynccontextmanager
async def a_host(pair: Pair, export: str) -> AsyncIterator[NbdClient]:
    """Write and read back all the while; any failure is raised at the end."""
    client = await pair.primary.nbd(export)
    chance = random.Random(export)

    async def work() -> None:
        while True:
            data = chance.randbytes(4096)
            offset = LOW_BYTES + chance.randrange(64) * 4096
            await client.write(offset, data)
            assert await client.read(offset, len(data)) == data

    task = asyncio.create_task(work())
    try:
        yield client
    finally:
        task.cancel()
        (end,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(end, asyncio.CancelledError), end
    await client.disconnect()


async def is_idle(pair: Pair) -> bool:
    """Tell whether the daemon leaves the processor alone, for a moment at least."""
    began, used = time.monotonic(), cpu_seconds(pair.primary)
    await asyncio.sleep(0.3)
    share = (cpu_seconds(pair.primary) - used) / (time.monotonic() - began)
    return share < IDLE_SHARE_MAX


async def test_whatever_ends_wherever_nothing_is_left_over(pair: Pair) -> None:
    addresses = [pair.primary.nbd_address, pair.tcp_address]
    before = descriptor_count(pair.primary)
    grown_from = 0
    async with a_host(pair, "h/o") as other, a_host(pair, EXPORT):
        for number in range(ROUNDS):
            for address in addresses:
                await asyncio.to_thread(end_everywhere, address)
            if number == WARM_ROUNDS:
                await until(
                    lambda: descriptor_count(pair.primary) <= before + 2,
                    "descriptors are closed while others go on",
                )
                grown_from = resident_bytes(pair.primary)
        assert await other.read(0, 512) == bytes(512)
    await until(
        lambda: descriptor_count(pair.primary) <= before, "descriptors come back"
    )
    grown = resident_bytes(pair.primary) - grown_from
    print(f"memory grew by {grown / MIB:.1f} MiB over {ROUNDS - WARM_ROUNDS} rounds")
    assert grown < LEFT_OVER_BYTES
    for _ in range(20):
        if await is_idle(pair):
            break
    else:
        pytest.fail("it spins")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await pair.primary.stop()


async def test_hosts_of_a_daemon_that_stops_are_told_by_a_closed_socket(
    pair: Pair,
) -> None:
    """In every state: none keeps it from stopping, none is told an error."""
    clients = []
    for address in (pair.primary.nbd_address, pair.tcp_address):
        for reach in STATES.values():
            client = StoppingClient(address)
            clients.append(client)
            with contextlib.suppress(OSError):
                await asyncio.to_thread(reach, client)
    await pair.primary.stop()
    for client in clients:
        await asyncio.to_thread(client.until_closed)
        client.socket.close()
