"""How much of a long link farshore fills: one cycle of random data over a shaped one.

    python benchmarks/wan_link.py --megabits 100 --round-trip-ms 50 --connections 1

The link is a proxy in a process of its own: bytes leave it at the rate, one after the
other whatever connection they are of, and arrive half a round trip later; what waits in
front of it is bounded, as in a router. The proxy answers for TCP itself: what the round
trip costs here is what farshore waits for, credit and answers, not TCP's own window.
Figures go to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.sites import Pair, VolumeSpec, free_port

MIB = 1 << 20
CHUNK_BYTES = 16 << 10
ROUTER_SECONDS = 0.05
"""Bytes that wait for the link, in seconds of its rate."""


class Line:
    """One direction: a rate, a delay, and a queue that all connections share."""

    def __init__(self, bytes_per_second: float, delay_seconds: float) -> None:
        self._rate = bytes_per_second
        self._delay = delay_seconds
        self._free_at = 0.0

    async def carry(
        self, reader: asyncio.StreamReader, sink: Callable[[bytes], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(CHUNK_BYTES):
            now = loop.time()
            self._free_at = max(self._free_at, now) + len(data) / self._rate
            loop.call_at(self._free_at + self._delay, sink, data)
            ahead = self._free_at - now - ROUTER_SECONDS
            if ahead > 0:
                await asyncio.sleep(ahead)
        await asyncio.sleep(max(0.0, self._free_at - loop.time()) + self._delay)


async def shaped(port: int, target: int, rate: float, delay: float) -> None:
    """Serve the link for ever."""
    there, back = Line(rate, delay), Line(rate, delay)

    async def accept(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.wait(
            [
                asyncio.create_task(there.carry(reader, far_writer.write)),
                asyncio.create_task(back.carry(far_reader, writer.write)),
            ],
            return_when=asyncio.FIRST_COMPLETED,
        )
        writer.transport.abort()
        far_writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    await server.serve_forever()


def _serve(port: int, target: int, rate: float, delay: float) -> None:
    asyncio.run(shaped(port, target, rate, delay))


async def measure(
    megabits: float, round_trip: float, connections: int, mebibytes: int
) -> dict[str, float]:
    """Return what one cycle of incompressible data reached of the link."""
    rate = megabits * 1e6 / 8
    options: dict[str, object] = {"connections": connections, "compression": "off"}
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        port, volumes = free_port(), [VolumeSpec("v", mebibytes * MIB)]
        with Pair(Path(name), volumes, link=options, link_port=port) as pair:
            link = multiprocessing.get_context("spawn").Process(
                target=_serve,
                args=(port, pair.replication_port, rate, round_trip / 2),
                daemon=True,
            )
            link.start()
            try:
                await pair.start()
                return await _cycle(pair, mebibytes, rate)
            finally:
                link.kill()
                link.join()


async def _cycle(pair: Pair, mebibytes: int, rate: float) -> dict[str, float]:
    client = await pair.primary.nbd("g/v")
    rng = random.Random(1)
    for index in range(mebibytes):
        await client.write(index * MIB, rng.randbytes(MIB))
    await client.disconnect()
    began = time.monotonic()
    await pair.cut()
    seconds = time.monotonic() - began
    sent = pair.primary.group()["last_cycle"]["bytes_on_wire"]
    return {
        "bytes_on_wire": sent,
        "seconds": round(seconds, 3),
        "share_of_rate": round(sent / seconds / rate, 4),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--megabits", type=float, default=100.0)
    options.add_argument("--round-trip-ms", type=float, default=50.0)
    options.add_argument("--connections", type=int, default=1)
    options.add_argument("--mebibytes", type=int, default=192)
    chosen = options.parse_args()
    found = asyncio.run(
        measure(
            chosen.megabits,
            chosen.round_trip_ms / 1000,
            chosen.connections,
            chosen.mebibytes,
        )
    )
    print(json.dumps(vars(chosen) | found))


if __name__ == "__main__":
    main()
