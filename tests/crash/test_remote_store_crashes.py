"""Power cuts and kills at every write and flush of the remote store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from common.errors import FarshoreError
from tests.support.remote_store_explorer import Explorer, ViolationError

SECONDS = float(os.environ.get("FARSHORE_CRASH_SECONDS", "14"))
"""How long to explore; each seed that has begun is finished."""

SEED = int(os.environ.get("FARSHORE_CRASH_SEED", "0"))
CYCLES = 5


@pytest.mark.parametrize(
    ("share", "retained", "images_per_step", "error_odds"),
    [(0.5, 1, 3, 0.0), (0.2, 3, 2, 0.0), (0.3, 2, 1, 0.05)],
    ids=["newest point", "three points", "with errors"],
)
def test_every_crash_image_recovers_to_one_acknowledged_cut(
    share: float, retained: int, images_per_step: int, error_odds: float
) -> None:
    end = time.monotonic() + SECONDS * share
    seed, images, errors = SEED, 0, 0
    while seed == SEED or time.monotonic() < end:
        explorer = Explorer(
            seed,
            images_per_step=images_per_step,
            retained=retained,
            error_odds=error_odds,
        )
        try:
            explorer.run(CYCLES)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        images += explorer.images_checked
        errors += explorer.errors_met
        seed += 1
    print(f"seeds {SEED}..{seed - 1}: {images} recoveries compared, {errors} errors")
    assert images > 300


Lie = Callable[[Explorer, str, str], bool]


def _first_journal_flush() -> Lie:
    seen: set[str] = set()

    def lie(_explorer: Explorer, _operation: str, path: str) -> bool:
        if not path.endswith(".journal") or path in seen:
            return False
        seen.add(path)
        return True

    return lie


def _flush_of(suffix: str, *, phase: str | None = None) -> Callable[[], Lie]:
    def lie(explorer: Explorer, _operation: str, path: str) -> bool:
        return path.endswith(suffix) and phase in {None, explorer.phase}

    return lambda: lie


BREAKAGES: dict[str, Callable[[], Lie]] = {
    "devices are not synced before the commit": _flush_of(".img", phase="running"),
    "a device is not synced at a start": _flush_of(".img", phase="recovering"),
    "an append to a journal is not synced": _flush_of(".journal", phase="running"),
    "a new journal's header is not synced": _first_journal_flush,
    "a journal is not synced at a start": _flush_of(".journal", phase="recovering"),
    "the journals' directory is never synced": _flush_of("/journal/orders"),
    "the record is not synced": _flush_of("/store", phase="running"),
    "the record is not synced at a start": _flush_of("/store", phase="recovering"),
    "a new record's bytes are not synced": _flush_of("/store.new"),
    "the record's directory is never synced": _flush_of("/state/orders"),
    "the devices' directory is never synced": _flush_of("/devices"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_leaving_out_one_flush_is_found(name: str) -> None:
    """The explorer can fail: each flush of the store is needed, and it can tell."""
    for seed in range(SEED, SEED + 40):
        explorer: Explorer | None = None
        try:
            explorer = Explorer(seed, lies=BREAKAGES[name]())
            explorer.run(CYCLES)
        except (ViolationError, FarshoreError):
            return
    pytest.fail(f"nothing went wrong although {name}")
