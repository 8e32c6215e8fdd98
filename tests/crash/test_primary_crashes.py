"""The sending site under power loss and kills, at every write and flush."""

from __future__ import annotations

import pytest

from common.storage import region_log
from tests.support.primary_explorer import explore

SEEDS = 16
STEPS = 150


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_crash_loses_a_change_or_a_flushed_write(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small areas, so that the log changes sides many times a run.
    monkeypatch.setattr(region_log, "AREA_BLOCKS", 6)
    explorer = explore(seed, STEPS)
    assert explorer.images_checked > 50


def test_the_explorer_reaches_what_it_is_there_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(region_log, "AREA_BLOCKS", 6)
    runs = [explore(seed, STEPS, images_per_step=1) for seed in range(100, 104)]
    assert sum(run.points_committed for run in runs) >= 5
    assert sum(run.tracks_acked_at_recovery for run in runs) > 0
