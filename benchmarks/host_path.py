"""The host path: every job against every server, in turn, in three situations.

Steady     nothing is preserved: farshore's FlashCopy stands, and every track was
           written since the cut, so that no write has old content to keep
Preserving a fresh cut (a fresh copy-before-write node) before each run, and every
           block written once: each write has old content to keep
Cycling    a cut every second, drained to a remote that shares the machine

Rounds go ABAB: whatever drifts on the machine hits all servers alike. Each begins
with the same warm-up through every server: see `_warm`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import servers
from benchmarks.farshore_sites import Pair, Site, connected, settled
from benchmarks.jobs import (
    CYCLING,
    PRESERVING,
    STEADY,
    Job,
    Result,
    drop_from_cache,
    fio,
    run,
)
from benchmarks.processes import wait_until
from benchmarks.servers import Endpoint, Place, Serve, fill

SETTLE_SECONDS_MAX = 120.0

PRESERVED_SHARE_MIN = 0.95
"""Of what was written; less means that a server skipped the work it is timed for."""

PEER, OURS, CEILING = "peer", "ours", "ceiling"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One column. A ceiling does no work of its own: it shows what the client allows.

    Ceilings run in the first round alone, and not where a job starts cold.
    """

    name: str
    serve: Serve
    role: str = PEER
    in_quick: bool = True


@dataclass(frozen=True, slots=True)
class Situation:
    key: str
    title: str
    contestants: tuple[Contestant, ...]
    jobs: list[Job]
    is_preserving: bool = False


@dataclass(slots=True)
class Row:
    """All runs of one job over one transport in one situation."""

    situation: str
    transport: str
    job: Job
    runs: dict[str, list[Result]] = field(default_factory=dict)
    preserved: dict[str, list[int]] = field(default_factory=dict)
    """Bytes copied aside in each run, where that is the point."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of the table to run."""

    seconds: float
    rounds: int
    size_bytes: int
    is_quick: bool
    matching: str = ""
    situations: tuple[str, ...] = ()
    transports: tuple[str, ...] = servers.TRANSPORTS


class Farshore(Endpoint):
    """Both sites; the host's side of them is one volume."""

    def __init__(self, pair: Pair, site: Site, transport: str) -> None:
        super().__init__(pair.uri if transport == "unix" else pair.tcp_uri, pair.image)
        self._pair = pair
        self._site = site

    def refresh(self) -> None:
        """Cut, and wait for the commit: the relation stands with nothing in it."""
        self._site.call("cut", group="bench", wait=True, label=None)

    def settle(self) -> None:
        wait_until(lambda: settled(self._site), "drain", SETTLE_SECONDS_MAX)

    def preserved_bytes(self) -> int:
        """Return the tracks marked since the cut, each of which was preserved.

        While a relation stands, a track's first write preserves it; an alarm says
        where one could not.
        """
        group = self._site.group()
        if group["alarms"]:
            raise RuntimeError(f"farshore did not preserve: {group['alarms']}")
        changed = group["changed_bytes"]
        assert isinstance(changed, int)
        return min(changed, self._pair.flashcopy_allocated_bytes())


class _Unpreserving(Farshore):
    """Nothing is cut or drained between the jobs, so there is nothing to wait for."""

    def settle(self) -> None:
        pass


@contextmanager
def _farshore(place: Place, trigger: str, kind: type[Farshore]) -> Iterator[Farshore]:
    pair = Pair(place.folder, f"{place.image_bytes}B", trigger)
    fill(pair.image, place.image_bytes)
    with connected(pair) as site:
        yield kind(pair, site, place.transport)


@contextmanager
def _standing(place: Place) -> Iterator[Endpoint]:
    with _farshore(place, "manual = true", _Unpreserving) as endpoint:
        endpoint.refresh()
        yield endpoint


@contextmanager
def _freshly_cut(place: Place) -> Iterator[Endpoint]:
    with _farshore(place, "manual = true", _Unpreserving) as endpoint:
        yield endpoint


@contextmanager
def _cycling(place: Place) -> Iterator[Endpoint]:
    with _farshore(place, 'interval = "1s"', Farshore) as endpoint:
        endpoint.settle()
        yield endpoint


def _warm(endpoint: Endpoint, size_bytes: int) -> None:
    """Have the page cache hold what a host with small blocks would leave there.

    A file that was just made by long writes, or read ahead, lies in memory in folios
    of up to 2 MiB, and ext4 (Linux 6.18) walks all 512 buffers of one for each 4 KiB
    written to it: three quarters of the time of any server, however it is made.
    """
    if endpoint.image is not None:
        drop_from_cache(endpoint.image)
    fio(endpoint.uri, "write", 4096, 32, size_bytes)
    endpoint.settle()


def situations(*, has_io_uring: bool) -> tuple[Situation, ...]:
    """Return the table of who meets what."""
    qemu = [Contestant("qemu-nbd threads", servers.qemu_nbd("threads"))]
    if has_io_uring:
        qemu.append(Contestant("qemu-nbd io_uring", servers.qemu_nbd("io_uring")))
    others = [
        Contestant("nbdkit file", servers.nbdkit_file),
        Contestant("nbd-server", servers.nbd_server),
    ]
    copied = Contestant(
        "copy-before-write, all copied", servers.copy_before_write, in_quick=False
    )
    null = Contestant("nbdkit null", servers.nbdkit_null, CEILING)
    memory = Contestant("nbdkit memory", servers.nbdkit_memory, CEILING)
    return (
        Situation(
            "steady",
            "FlashCopy established, nothing to preserve",
            (
                *qemu,
                *others,
                copied,
                Contestant("farshore", _standing, OURS),
                null,
                memory,
            ),
            STEADY,
        ),
        Situation(
            "preserving",
            "Every write preserves",
            (
                Contestant("copy-before-write", servers.copy_before_write),
                Contestant("farshore", _freshly_cut, OURS),
            ),
            PRESERVING,
            is_preserving=True,
        ),
        Situation(
            "cycling",
            "A cycle every second, the remote on the same machine",
            (*qemu, *others, Contestant("farshore", _cycling, OURS)),
            CYCLING,
        ),
    )


def measure(where: Path, extent: Extent, say: Callable[[str], None]) -> list[Row]:
    """Run what `extent` asks for; every server ends before this returns."""
    rows: list[Row] = []
    has_io_uring = servers.qemu_has_io_uring(where)
    if not has_io_uring:
        say("qemu-nbd here has no aio=io_uring: that column is absent")
    for situation in situations(has_io_uring=has_io_uring):
        if extent.situations and situation.key not in extent.situations:
            continue
        jobs = [
            job
            for job in situation.jobs
            if (job.in_quick or not extent.is_quick) and extent.matching in job.name
        ]
        for transport in ("unix",) if extent.is_quick else extent.transports:
            if jobs:
                rows += _measure(where, situation, transport, jobs, extent, say)
    return rows


def _measure(
    where: Path,
    situation: Situation,
    transport: str,
    jobs: list[Job],
    extent: Extent,
    say: Callable[[str], None],
) -> list[Row]:
    rows = [Row(situation.key, transport, job) for job in jobs]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=where)))
        serving = [
            (who, stack.enter_context(_start(who, folder / str(n), transport, extent)))
            for n, who in enumerate(situation.contestants)
            if who.in_quick or not extent.is_quick
        ]
        for number in range(extent.rounds):
            say(f"{situation.key}, {transport}: round {number + 1} of {extent.rounds}")
            for who, endpoint in serving:
                if who.role != CEILING:
                    _warm(endpoint, extent.size_bytes)
            for row in rows:
                for who, endpoint in serving:
                    if who.role != CEILING or not (number or row.job.is_cold):
                        _run(row, who.name, endpoint, situation, extent)
    return rows


def _start(
    who: Contestant, folder: Path, transport: str, extent: Extent
) -> AbstractContextManager[Endpoint]:
    folder.mkdir()
    return who.serve(Place(folder, transport, extent.size_bytes))


def _run(
    row: Row, name: str, endpoint: Endpoint, situation: Situation, extent: Extent
) -> None:
    if situation.is_preserving:
        endpoint.refresh()
    result = run(
        row.job, endpoint.uri, endpoint.image, extent.size_bytes, extent.seconds
    )
    row.runs.setdefault(name, []).append(result)
    if situation.is_preserving:
        preserved = endpoint.preserved_bytes()
        if preserved is None or preserved < PRESERVED_SHARE_MIN * result.written_bytes:
            raise RuntimeError(
                f"{name}: {row.job.name} wrote {result.written_bytes} bytes and only "
                f"{preserved} were preserved"
            )
        row.preserved.setdefault(name, []).append(preserved)
    endpoint.settle()
