"""A soak: faults for as long as there is time, and nothing may pile up.

Every lap resets or stalls the link, lets hosts come and go, and has a point read at
the remote, while hosts write and cuts are taken; then everything comes to rest, and
what each daemon has open and holds in memory is noted. Between the middle third of
the laps and the last neither may have grown beyond the thresholds below.
"""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.endurance import Endurance
from tests.support.process_figures import descriptor_count, process_id
from tests.support.sites import Daemon, VolumeSpec, free_port, until
from tests.support.stamping_writers import Mix
from tests.support.tcp_proxy import TcpProxy
from tests.torture.bench import Bench, Figures
from tests.torture.placed_pair import PlacedPair

MIB = 1 << 20
VOLUMES = [
    VolumeSpec("data", 6 * MIB + 512, {"track_size": "4KiB", "hot_regions_max": 16}),
    VolumeSpec("log", 2 * MIB, {"track_size": "4KiB", "hot_regions_max": 16}),
]
MIX = Mix(flush=0.05)
MEMORY_GROWTH_BYTES_MAX = 6 * MIB
DESCRIPTOR_GROWTH_MAX = 2
LAPS_FIRST = 3
LAPS_MIN = 45
"""Before that a daemon is still filling its caches, and growth tells nothing."""

CHANGES_PER_LAP = (50, 400)
STALL_SECONDS_MAX = 0.3
PASSING_HOSTS = 5


@dataclass
class Samples:
    """Of one daemon, a lap an element."""

    descriptors: list[int] = field(default_factory=list)
    private_bytes: list[int] = field(default_factory=list)

    def take(self, daemon: Daemon) -> None:
        self.descriptors.append(descriptor_count(daemon))
        self.private_bytes.append(private_bytes(daemon))

    def growth(self) -> tuple[int, int]:
        """Return how many descriptors and bytes there are more of in the last third
        than in the middle one, by their medians."""
        third = len(self.descriptors) // 3

        def grown(values: list[int]) -> int:
            middle = statistics.median(values[third : 2 * third])
            return int(statistics.median(values[-third:]) - middle)

        return grown(self.descriptors), grown(self.private_bytes)


def private_bytes(daemon: Daemon) -> int:
    """Return the memory that only this process has, from /proc/PID/smaps_rollup."""
    text = Path(f"/proc/{process_id(daemon)}/smaps_rollup").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("Private_")]
    return sum(int(words[1]) << 10 for words in lines)


async def soak(bench: Bench) -> Figures:
    """The part: laps until the share is over, then the comparison."""
    port = free_port()
    samples = {"primary": Samples(), "remote": Samples()}
    with PlacedPair(
        bench.directory / "pair",
        VOLUMES,
        link_port=port,
    ) as pair:
        proxy = TcpProxy(pair.replication_port)
        await proxy.start(port)
        try:
            await pair.start()
            endurance = Endurance(pair, bench.seed, writers=2, mix=MIX)
            async with endurance.under_load():
                faults = await _laps(bench, pair, proxy, endurance, samples)
        finally:
            await proxy.close()
        cuts = len(endurance.cycles())
    figures: Figures = {
        "laps": len(samples["primary"].descriptors),
        "faults": faults,
        "cuts": cuts,
        "host_writes": len(endurance.history.ops),
        "memory_growth_bound_bytes": MEMORY_GROWTH_BYTES_MAX,
        "descriptor_growth_bound": DESCRIPTOR_GROWTH_MAX,
    }
    is_warm = len(samples["primary"].descriptors) >= LAPS_MIN
    if not is_warm:
        bench.without(f"growth of memory (fewer than {LAPS_MIN} laps: give it longer)")
    for site, seen in samples.items():
        descriptors, memory = seen.growth()
        figures[f"{site}_descriptor_growth"] = descriptors
        figures[f"{site}_memory_growth_bytes"] = memory
        figures[f"{site}_memory_bytes"] = seen.private_bytes[-1]
        bench.say(f"{site}: {descriptors:+d} descriptors, {memory:+d} bytes")
        assert descriptors <= DESCRIPTOR_GROWTH_MAX, f"{site}: {seen.descriptors}"
        assert not is_warm or memory <= MEMORY_GROWTH_BYTES_MAX, (
            f"{site}: {seen.private_bytes}"
        )
    return figures


async def _laps(
    bench: Bench,
    pair: PlacedPair,
    proxy: TcpProxy,
    endurance: Endurance,
    samples: dict[str, Samples],
) -> int:
    faults = laps = 0
    await endurance.check_next_cut_is_exact()
    while bench.left() > 0 or laps < LAPS_FIRST:
        endurance.go_on_cutting()
        await endurance.progress(bench.random.randint(*CHANGES_PER_LAP))
        if bench.random.random() < 0.5:
            proxy.reset()
        else:
            proxy.stall()
            await asyncio.sleep(bench.random.uniform(0, STALL_SECONDS_MAX))
            proxy.flow()
        await _passing_hosts(pair)
        await endurance.judge_newest_point()
        await endurance.check_next_cut_is_exact()
        await endurance.stop_cutting()
        faults += 1 + PASSING_HOSTS
        laps += 1
        await endurance.rest_hosts()
        await until(lambda: _is_at_rest(pair), "both sites are at rest")
        for daemon in pair.daemons:
            samples[daemon.role].take(daemon)
        endurance.resume_hosts()
        if laps % 10 == 0:
            used = {
                site: seen.private_bytes[-1] >> 10 for site, seen in samples.items()
            }
            bench.say(f"lap {laps}, memory {used} KiB")
    return faults


def _is_at_rest(pair: PlacedPair) -> bool:
    return all(
        daemon.group()["link"]["state"] == "connected" for daemon in pair.daemons
    )


async def _passing_hosts(pair: PlacedPair) -> None:
    """Hosts that come, read a little, and leave in good order or without a word."""
    for number in range(PASSING_HOSTS):
        client = await pair.primary.nbd(pair.exports[number % len(pair.exports)])
        await client.read(0, 4096)
        if number % 2:
            await client.disconnect()
        else:
            client.abort()
