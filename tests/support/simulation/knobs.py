"""What one seed chooses of the product: sizes, limits, and its randomness.

A limit that a tiny volume never meets is never tested, so a run may set it lower:
frames of few tracks, small windows, short logs. Everything is set back afterwards.
"""

from __future__ import annotations

import random
import secrets
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import structlog

from common.service.config_primary import PrimaryGroup
from common.service.config_remote import RemoteGroup
from common.storage import journal_files, journal_merge, open_journals, region_log
from primary_site import (
    drain_plan,
    group_state,
    likeness,
    piece_reading,
    preserving,
    replicator,
    upkeep,
    volume,
)
from remote_site import (
    applying,
    finishing,
    group,
    group_record,
    leases,
    listed_points,
    point_map,
    preserving_device,
    receiver,
    secondary,
    store_record,
)
from tests.support.simulation.loop import World
from tests.support.simulation.machine import TurnLock
from tests.support.simulation.model import is_wordy
from tests.support.simulation.sites import GROUP

SMALL: list[tuple[Any, str, tuple[float, ...]]] = [
    (drain_plan, "FRAME_BYTES", (8 << 10, 16 << 10, 64 << 10)),
    (drain_plan, "FRAME_RUNS_MAX", (2, 512)),
    (drain_plan, "HASHED_TRACKS_MAX", (3, 8, 2048)),
    (drain_plan, "HOLE_PROBE_TRACKS", (3, 256)),
    (group_state, "SENT_AHEAD_BYTES", (0, 64 << 10, 256 << 20)),
    (upkeep, "ACKED_UNSAVED_BYTES", (16 << 10, 16 << 20)),
    (preserving, "PRESERVE_CHUNK_BYTES", (8 << 10, 1 << 20)),
    (preserving, "KEPT_BYTES_MAX", (0, 64 << 10, 256 << 20)),
    (replicator, "TEND_SECONDS", (0.2, 1.0, 5.0)),
    (volume, "SLICE_BYTES", (8 << 10, 1 << 20)),
    (applying, "BATCH_BYTES_MAX", (8 << 10, 8 << 20)),
    (finishing, "UNFLUSHED_BYTES_MAX", (16 << 10, 4 << 20)),
]
"""Module, name and what it may be set to."""

SMALL_IN_HISTORY: list[tuple[Any, str, tuple[float, ...]]] = [
    (journal_merge, "BATCH_BYTES", (8 << 10, 1 << 20)),
    (journal_merge, "WINDOW_TRACKS", (8, 1 << 16)),
    (point_map, "WINDOW_TRACKS", (8, 1 << 16)),
    (point_map, "DIRECT_MAX", (1, 8)),
    (store_record, "TAIL_POINTS_MAX", (2, 128)),
    (store_record, "TAIL_POINTS_LEFT", (1, 1)),
]
"""The same, by chance of its own: other seeds do what they did before."""

WINDOWS = (160 << 10, 256 << 10, 16 << 20)
VERIFY_PIECE_BYTES = 16 << 10
REGION_LOG_BLOCKS = 6
"""An area of the region log: so that it changes sides within a run."""


@contextmanager
def controlled(
    world: World, stand_ins: Sequence[tuple[Any, str, Any]] = ()
) -> Iterator[None]:
    """Make the product's limits, locks and randomness those of one run."""
    kept: list[tuple[Any, str, Any]] = []

    def put(place: Any, name: str, value: Any) -> None:
        kept.append((place, name, getattr(place, name)))
        setattr(place, name, value)

    rng = world.rng
    try:
        are_small = rng.random() < 0.8
        for place, name, values in SMALL:
            chosen = rng.choice(values)
            if are_small:
                put(place, name, chosen)
        history = random.Random(world.seed ^ 0x5A11)
        for place, name, values in SMALL_IN_HISTORY:
            put(place, name, history.choice(values))
        if is_wordy(world.seed):  # of small frames, too, much is known
            put(likeness, "UNLIKE_BYTES_MIN", 2048)
        window = rng.choice(WINDOWS) if are_small else WINDOWS[-1]
        put(receiver, "WINDOW_BYTES", window)
        put(group, "WINDOW_BYTES", window)
        put(region_log, "AREA_BLOCKS", REGION_LOG_BLOCKS)
        put(piece_reading, "PIECE_BYTES_MAX", VERIFY_PIECE_BYTES)
        put(piece_reading, "HOLE_BYTES_MIN", VERIFY_PIECE_BYTES)
        locks = SimpleNamespace(Lock=TurnLock, local=threading.local)
        for place in (
            secondary,
            group_record,
            journal_files,
            leases,
            listed_points,
            open_journals,
            point_map,
            preserving_device,
        ):
            put(place, "threading", locks)
        put(secrets, "token_bytes", lambda count=32: world.chance.randbytes(count))
        put(random, "uniform", world.chance.uniform)
        for place, name, stand_in in stand_ins:
            put(place, name, stand_in)
        yield
    finally:
        for place, name, value in reversed(kept):
            setattr(place, name, value)


class _Log:
    """A logger that says nothing, but for what the product calls a bug of its own."""

    def __init__(self, world: World) -> None:
        self._world = world

    def bind(self, **_: Any) -> _Log:
        return self

    def _ignore(self, event: str, **_: Any) -> None:
        """The trace says what happens."""

    debug = info = warning = error = _ignore

    def exception(self, event: str, **_: Any) -> None:
        if self._world.is_over:
            return
        self._world.problem(f"a bug was logged: {event}", sys.exc_info()[1])


@contextmanager
def quiet_logs(world: World) -> Iterator[None]:
    """Have the product's log say nothing while a run lasts."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=lambda *_, **__: _Log(world))  # type: ignore[arg-type]
    try:
        yield
    finally:
        structlog.configure(**before)


TRIGGERS: list[dict[str, Any]] = [
    {"interval": "300ms"},
    {"interval": "1s"},
    {"rpo": "1s"},
    {"changed": "16KiB"},
    {"manual": True},
]


def chosen_sizes(rng: random.Random) -> dict[str, tuple[int, int, int]]:
    """Return name: (size, track, region), in bytes, of each volume."""
    found = {}
    for name in ("data", "log", "mail")[: rng.choice((1, 2, 2, 3))]:
        track = rng.choice((4096, 4096, 8192))
        size = rng.randrange(8, 33) * track + rng.choice((0, 0, 512, 1536))
        found[name] = (size, track, track * rng.choice((1, 2, 4)))
    return found


def primary_config(
    rng: random.Random, sizes: dict[str, tuple[int, int, int]], *, is_wordy: bool
) -> PrimaryGroup:
    """Return what it sends with; of words it looks for those that stand elsewhere."""
    found = _primary_config(rng, sizes)
    if is_wordy:
        link = found.link.model_copy(update={"compression": 3})
        found = found.model_copy(update={"link": link})
    return found


def _primary_config(
    rng: random.Random, sizes: dict[str, tuple[int, int, int]]
) -> PrimaryGroup:
    return PrimaryGroup.model_validate(
        {
            "name": GROUP,
            **rng.choice(TRIGGERS),
            "hold_max": rng.choice(("5ms", "50ms")),
            "hold_retries": 3,
            "resume_timeout": rng.choice(("1s", "5s", "30s")),
            "link": {
                "remotes": ["dr:7420", "dr2:7420"][: rng.choice((1, 1, 2))],
                "connections": rng.choice((1, 1, 2)),
                "peer": "dr",
                "allow_plaintext_replication": True,
                "compression": rng.choice(("off", "auto")),
            },
            "flashcopy": {"directory": "/flashcopy"},
            "volume": [
                {
                    "name": name,
                    "device": f"/devices/{name}.img",
                    "size": f"{size}B",
                    "track_size": f"{track}B",
                    "region_size": f"{region}B",
                    "hot_regions_max": 16,
                }
                for name, (size, track, region) in sizes.items()
            ],
        }
    )


def remote_config(sizes: dict[str, tuple[int, int, int]]) -> RemoteGroup:
    return RemoteGroup.model_validate(
        {
            "name": GROUP,
            "peer": "amsterdam",
            "journal": {"directory": "/journal"},
            "volume": [
                {"name": name, "device": f"/devices/{name}.img"} for name in sizes
            ],
        }
    )
