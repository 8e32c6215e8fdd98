"""How much of a link farshore uses: all that there is, or the rate it is asked to hold.

    python benchmarks/wan_link.py --megabits 100 --round-trip-ms 50
    python benchmarks/wan_link.py --only paced

Over a cable of that rate and round trip between two network namespaces: one cycle of
random data, from the command `cut` to its answer, beside one plain TCP connection that
carries as many bytes; over one connection and over two. Then, on loopback, profiles and
bandwidths: the bytes that a proxy sees leave per second, between the first and the last
tenth of a cycle, over the rate asked for. Needs root for the cable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.long_link import LongLink, long_link
from benchmarks.servers import describe_machine
from common.replication.profiles import PROFILES
from tests.support.sites import Pair, VolumeSpec, free_port
from tests.support.tcp_proxy import TcpProxy

MIB = 1 << 20
SHARE_WANTED = 0.95
PACED_SECONDS = 15.0
LOOK_SECONDS = 0.02

Figures = dict[str, Any]


async def fill(pair: Pair, size: int, seed: int = 1) -> None:
    client = await pair.primary.nbd("g/v")
    rng = random.Random(seed)
    for at in range(0, size, MIB):
        await client.write(at, rng.randbytes(min(MIB, size - at)))
    await client.disconnect()


async def over_cable(
    link: LongLink, directory: Path, connections: int, mebibytes: int
) -> Figures:
    """Return what one cycle of incompressible data reached of the cable."""
    options: dict[str, object] = {"connections": connections, "compression": "off"}
    volumes = [VolumeSpec("v", mebibytes * MIB)]
    with link.pair(directory, volumes, options) as pair:
        await pair.start()
        await fill(pair, mebibytes * MIB)
        before, dropped = link.cable.carried_bytes[1], link.cable.dropped
        began = time.monotonic()
        await pair.cut()
        seconds = time.monotonic() - began
        sent = pair.primary.group()["last_cycle"]["bytes_on_wire"]
    rate = link.cable.bytes_per_second
    assert rate is not None
    return {
        "bytes_on_wire": sent,
        "seconds": round(seconds, 3),
        "share_of_rate": round(
            (link.cable.carried_bytes[1] - before) / seconds / rate, 4
        ),
        "share_without_ip_and_tcp": round(sent / seconds / rate, 4),
        "packets_dropped": link.cable.dropped - dropped,
    }


def cable_part(megabits: float, round_trip: float, mebibytes: int) -> Figures:
    found: Figures = {}
    rate = megabits * 1e6 / 8
    with (
        tempfile.TemporaryDirectory(prefix="fs-") as name,
        long_link(megabits, round_trip) as link,
    ):
        for connections in (1, 2):
            folder = Path(name) / str(connections)
            one = asyncio.run(over_cable(link, folder, connections, mebibytes))
            before = link.cable.carried_bytes[1]
            seconds = link.plain_tcp_seconds(int(one["bytes_on_wire"]))
            carried = link.cable.carried_bytes[1] - before
            one["plain_tcp_share_of_rate"] = round(carried / seconds / rate, 4)
            one["of_plain_tcp"] = round(seconds / one["seconds"], 4)
            found[f"{connections} connection{'s' * (connections > 1)}"] = one
    return found


async def paced(options: dict[str, object], rate: float) -> Figures:
    """Return the rate that a cycle of some seconds held, over the one asked for."""
    size = int(rate * PACED_SECONDS) // MIB * MIB + MIB
    port = free_port()
    link = {"connections": 2, "compression": "off", **options}
    with (
        tempfile.TemporaryDirectory(prefix="fs-") as name,
        Pair(Path(name), [VolumeSpec("v", size)], link=link, link_port=port) as pair,
    ):
        proxy = TcpProxy(pair.replication_port, takes_little=True)
        await proxy.start(port)
        try:
            await pair.start()
            await fill(pair, size)
            looks = await _watched(pair, proxy)
        finally:
            await proxy.close()
    begun, ended = looks[0][1], looks[-1][1]
    tenth = (ended - begun) / 10
    first = next(look for look in looks if look[1] >= begun + tenth)
    last = next(look for look in looks if look[1] >= ended - tenth)
    held = (last[1] - first[1]) / (last[0] - first[0])
    return {
        "asked_bytes_per_second": rate,
        "held_bytes_per_second": round(held),
        "held_over_asked": round(held / rate, 4),
        "seconds_looked_at": round(last[0] - first[0], 2),
    }


async def _watched(pair: Pair, proxy: TcpProxy) -> list[tuple[float, int]]:
    """Return (moment, bytes that have left) all along a cycle."""
    cutting = asyncio.create_task(pair.cut())
    looks = []
    while not cutting.done():
        looks.append((time.monotonic(), proxy.forwarded_bytes))
        await asyncio.sleep(LOOK_SECONDS)
    await cutting
    return looks


def paced_part() -> Figures:
    found: Figures = {}
    for name in ("t1", "t3"):
        rate = PROFILES[name].rate
        assert rate is not None
        found[name] = asyncio.run(paced({"profile": name}, rate))
    rate = 10 * MIB
    found["bandwidth 10MiB/s"] = asyncio.run(paced({"bandwidth": "10MiB/s"}, rate))
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--megabits", type=float, default=100.0)
    options.add_argument("--round-trip-ms", type=float, default=50.0)
    options.add_argument("--mebibytes", type=int, default=192)
    options.add_argument("--only", choices=["cable", "paced"])
    options.add_argument("--json", type=Path, help="write everything measured here")
    chosen = options.parse_args()
    found: Figures = {"machine": describe_machine()}
    if chosen.only != "paced":
        round_trip = chosen.round_trip_ms / 1000
        found["cable"] = cable_part(chosen.megabits, round_trip, chosen.mebibytes)
        print(
            "| over | share of its rate | wanted | plain TCP | of plain TCP's speed |"
        )
        print("|---|---:|---:|---:|---:|")
        for over, one in found["cable"].items():
            print(
                f"| {over} | {one['share_of_rate']:.3f} | {SHARE_WANTED} | "
                f"{one['plain_tcp_share_of_rate']:.3f} | {one['of_plain_tcp']:.3f} |"
            )
    if chosen.only != "cable":
        found["paced"] = paced_part()
        print("\n| asked | held | held ÷ asked |\n|---|---:|---:|")
        for name, one in found["paced"].items():
            rate = one["held_bytes_per_second"]
            print(f"| {name} | {rate / 1e6:.3f} MB/s | {one['held_over_asked']:.3f} |")
    print(json.dumps(found))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
