"""What a network may do to the link: loss, black holes, resets, flapping, slowness.

Both daemons in network namespaces of their own, joined by a cable that nftables, tc
and a TUN device do harm to, one harm after another, while hosts write and cuts are
taken. A host of a process of its own times each of its writes all the while. After
each harm the sites connect again and the next cut is exact.

A link that is dead without a word has to be noticed at both ends within
`DETECTION_SECONDS_MAX`, which follows from what the documentation says.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from tests.support.endurance import Endurance
from tests.support.sites import POLL_SECONDS, VolumeSpec, until
from tests.support.stamping_writers import Mix
from tests.torture.bench import Bench, Figures
from tests.torture.namespaces import Namespace, TunLink, join_by_veth, two_namespaces
from tests.torture.placed_pair import Place, PlacedPair
from tests.torture.write_probe import Measured, probing

MIB = 1 << 20
DETECTION_SECONDS_MAX = 10.5
"""docs/internals/recovery.md: 8 s without a byte. Of a black hole one way the last
byte may come as late as the next heartbeat, 2 s on; half a second for the machine."""

WRITE_SECONDS_MAX = 3.0
"""Less than it takes to notice a dead link: a write that waited for the link is
longer; one that met a busy machine is not."""

GIVE_UP_SECONDS = 30.0
PROBED_BYTES = MIB
VOLUMES = [
    VolumeSpec("data", 12 * MIB, {"track_size": "4KiB"}),
    VolumeSpec("log", 4 * MIB + 512, {"track_size": "4KiB"}),
]
MIX = Mix(hot=0.3, sectors_max=(3 * MIB) // 512)
VETH = "10.71.1.1", "10.71.1.2"
TUN = "10.71.2.1", "10.71.2.2"
LOSS_PERCENT = 5
LOSS_SECONDS = 6.0
RESETS = 6
FLAPS = 4
FLAP_SECONDS = 1.0
RATE_SECONDS = 8.0
DELAY_SECONDS = 0.1
"""One way: 200 ms there and back."""

STALL_SECONDS = 12.0
HOST_WRITES = 200
"""That hosts have to get on by during a harm."""


@dataclass
class Found:
    """What all rounds together have measured."""

    detections: list[float] = field(default_factory=list)
    longest: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    host: Measured = field(default_factory=Measured)
    stale_packets: int = 0
    resets_in_frames: int = 0
    cut_seconds_max_at_200_ms: float = 0.0

    def detected(self, harm: str, site: str, seconds: float) -> None:
        self.detections.append(seconds)
        key = f"{harm}, {site}"
        self.longest[key] = max(self.longest.get(key, 0.0), round(seconds, 2))


@dataclass
class Cable:
    """A running pair and the two ends of what joins it."""

    bench: Bench
    pair: PlacedPair
    endurance: Endurance
    primary: Namespace
    remote: Namespace
    names: tuple[str, str]
    found: Found
    tun: TunLink | None = None


Harm = Callable[[Cable], Awaitable[None]]


async def links(bench: Bench) -> Figures:
    """The part: every harm in turn, again and again."""
    found = Found()
    with_nft = bench.has("nft", what="loss, black holes and resets")
    with_tc = bench.has("tc", what="8 Mbit/s")
    on_veth: list[Harm] = [blackhole_to_remote, blackhole_to_primary] * with_nft
    on_veth += [blackhole_both, loss, resets] * with_nft + [slow] * with_tc + [flapping]
    bench.random.shuffle(on_veth)
    is_first = True
    while is_first or bench.left() > 0:
        await _on_veth(bench, found, on_veth, all_of_them=is_first)
        if is_first or bench.left() > 0:
            await _on_tun(bench, found, [delayed, stalled])
        is_first = False
    return {
        "detection_seconds_max": round(max(found.detections, default=0.0), 2),
        "detection_bound_seconds": DETECTION_SECONDS_MAX,
        "detections": len(found.detections),
        "detection_seconds_max_by_harm": found.longest,
        "host_write_seconds_max": round(found.host.longest_seconds, 3),
        "host_write_bound_seconds": WRITE_SECONDS_MAX,
        "host_writes_timed": found.host.writes,
        "host_writes_failed": found.host.failed,
        "rounds": sum(found.rounds.values()),
        "rounds_by_harm": found.rounds,
        "resets_in_frames": found.resets_in_frames,
        "stale_packets_released": found.stale_packets,
        "cut_seconds_max_at_200_ms": round(found.cut_seconds_max_at_200_ms, 2),
    }


async def _on_veth(
    bench: Bench, found: Found, harms: list[Harm], *, all_of_them: bool
) -> None:
    with two_namespaces() as (here, there):
        names = join_by_veth(here, there, VETH)
        async with _running(bench, found, (here, there), names, VETH[1]) as cable:
            for harm in harms:
                if all_of_them or bench.left() > 0:
                    await _round(cable, harm)


async def _on_tun(bench: Bench, found: Found, harms: list[Harm]) -> None:
    with two_namespaces() as (here, there), contextlib.ExitStack() as stack:
        tun = TunLink(here, there, TUN, 0.0)
        stack.callback(tun.close)
        async with _running(bench, found, (here, there), ("", ""), TUN[1]) as cable:
            cable.tun = tun
            for harm in harms:
                await _round(cable, harm)


@contextlib.asynccontextmanager
async def _running(
    bench: Bench,
    found: Found,
    ends: tuple[Namespace, Namespace],
    names: tuple[str, str],
    address: str,
) -> AsyncIterator[Cable]:
    primary, remote = ends
    number = sum(found.rounds.values())
    with PlacedPair(
        bench.directory / f"pair-{number}",
        VOLUMES,
        primary=Place(prefix=primary.prefix),
        remote=Place(prefix=remote.prefix, address=address),
        group={"manual": True, "resume_timeout": "5s"},
    ) as pair:
        await pair.start()
        endurance = Endurance(pair, bench.random.getrandbits(32), writers=2, mix=MIX)
        async with endurance.under_load():
            await endurance.check_next_cut_is_exact()
            with _timed_host(pair, found):
                yield Cable(bench, pair, endurance, primary, remote, names, found)


@contextlib.contextmanager
def _timed_host(pair: PlacedPair, found: Found) -> Iterator[None]:
    at = VOLUMES[0].size_bytes - PROBED_BYTES
    export = pair.exports[0]
    address = pair.primary.nbd_address
    with probing(address, export, at, PROBED_BYTES, found.host):
        yield
    assert not found.host.failed, "a host write failed"
    longest = found.host.longest_seconds
    assert longest < WRITE_SECONDS_MAX, f"a host write took {longest:.3f} s"


async def _round(cable: Cable, harm: Harm) -> None:
    name = harm.__name__
    cable.bench.say(f"{name} begins")
    cable.endurance.go_on_cutting()
    await harm(cable)
    await cable.endurance.progress(HOST_WRITES)
    await cable.pair.connected()
    await cable.endurance.judge_newest_point()
    await cable.endurance.check_next_cut_is_exact()
    cable.found.rounds[name] = cable.found.rounds.get(name, 0) + 1
    cable.bench.say(f"{name}: over, and the next cut is exact")


# -- harms -----------------------------------------------------------------------------


async def blackhole_to_remote(cable: Cable) -> None:
    with _dropping(cable, cable.remote):
        await _both_notice(cable, "black hole to the remote")


async def blackhole_to_primary(cable: Cable) -> None:
    with _dropping(cable, cable.primary):
        await _both_notice(cable, "black hole to the primary")


async def blackhole_both(cable: Cable) -> None:
    """Both ways, and with nothing in flight: nobody is told by unacknowledged data."""
    await cable.endurance.stop_cutting()
    with _dropping(cable, cable.primary, cable.remote):
        await _both_notice(cable, "black hole, idle")


async def loss(cable: Cable) -> None:
    """One packet in twenty is lost, each way."""
    rule = f"{_of_link(cable)} numgen random mod 100 < {LOSS_PERCENT} counter drop"
    with _ruled(rule, cable.primary, cable.remote):
        await _for_a_while(cable, LOSS_SECONDS)


async def resets(cable: Cable) -> None:
    """RST for whatever was being sent; the remote hears nothing.

    Every other one in the middle of a frame: what is long and has no PSH is followed by
    more of what was written at once, and a frame is.
    """
    for number in range(RESETS):
        which = "meta length > 1000 tcp flags & psh == 0" if number % 2 else ""
        with _ruled(f"{_of_link(cable)} {which} reject with tcp reset", cable.remote):
            await until(lambda: not cable.pair.is_connected(), "a reset is noticed")
        cable.found.resets_in_frames += number % 2
        await cable.pair.connected()
        await cable.endurance.progress(HOST_WRITES)


async def flapping(cable: Cable) -> None:
    """The cable is pulled and put in again, every two seconds."""
    for _ in range(FLAPS):
        for state in ("down", "up"):
            cable.primary.run("ip", "link", "set", cable.names[0], state)
            await asyncio.sleep(FLAP_SECONDS)


async def slow(cable: Cable) -> None:
    """Eight megabits a second, much less than hosts change."""
    rate = ("root", "tbf", "rate", "8mbit", "burst", "32k", "latency", "50ms")
    cable.primary.run("tc", "qdisc", "add", "dev", cable.names[0], *rate)
    try:
        await _for_a_while(cable, RATE_SECONDS)
    finally:
        cable.primary.run("tc", "qdisc", "del", "dev", cable.names[0], "root")


async def delayed(cable: Cable) -> None:
    """Two hundred milliseconds there and back: cuts go on, and hosts notice nothing."""
    assert cable.tun is not None
    await cable.endurance.stop_cutting()
    cable.tun.delay_seconds = DELAY_SECONDS
    loop = asyncio.get_running_loop()
    for _ in range(5):
        await cable.endurance.progress(HOST_WRITES)
        began = loop.time()
        await cable.endurance.check_next_cut_is_exact()
        took = loop.time() - began
        most = max(cable.found.cut_seconds_max_at_200_ms, took)
        cable.found.cut_seconds_max_at_200_ms = most
        await cable.endurance.stop_cutting()


async def stalled(cable: Cable) -> None:
    """Everything is held back until both have given up, then arrives, all stale."""
    assert cable.tun is not None
    cable.tun.hold()
    loop = asyncio.get_running_loop()
    ends = loop.time() + STALL_SECONDS
    await _both_notice(cable, "stall")
    while loop.time() < ends:
        await cable.endurance.progress(HOST_WRITES)
    cable.found.stale_packets += cable.tun.release()


# -- how -------------------------------------------------------------------------------


def _of_link(cable: Cable) -> str:
    """Only what belongs to the link, whichever way it goes."""
    return f"tcp dport {cable.pair.replication_port}"


@contextlib.contextmanager
def _ruled(rule: str, *places: Namespace) -> Iterator[None]:
    for place in places:
        # What the remote sends comes *from* the port.
        place.rules(rule, rule.replace("tcp dport", "tcp sport"))
    try:
        yield
    finally:
        for place in places:
            place.no_rules()


def _dropping(
    cable: Cable, *places: Namespace
) -> contextlib.AbstractContextManager[None]:
    return _ruled(f"{_of_link(cable)} counter drop", *places)


async def _for_a_while(cable: Cable, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while loop.time() < ends:
        await cable.endurance.progress(HOST_WRITES)


async def _both_notice(cable: Cable, harm: str) -> None:
    """Wait until neither site calls the link connected; measure each."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    waiting = {"primary": cable.pair.primary, "remote": cable.pair.remote}
    while waiting:
        for site, daemon in list(waiting.items()):
            took = loop.time() - began
            if daemon.group()["link"]["state"] != "connected":
                cable.found.detected(harm, site, took)
                cable.bench.say(f"{harm}: the {site} noticed after {took:.2f} s")
                del waiting[site]
            elif took > GIVE_UP_SECONDS:
                raise AssertionError(f"{harm}: the {site} never noticed")
        await asyncio.sleep(POLL_SECONDS)
    slowest = max(cable.found.detections)
    assert slowest <= DETECTION_SECONDS_MAX, (
        f"{harm}: noticed after {slowest:.2f} s, the bound is {DETECTION_SECONDS_MAX}"
    )
