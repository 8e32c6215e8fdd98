"""The files that recovery rests on, each on its own, and all crash images together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.crash.bitmap_explorer import BitmapExploration
from tests.support.crash.campaign import COMPONENTS, IMAGES_MIN, Campaign, outcomes
from tests.support.crash.exploration import Exploration, ViolationError
from tests.support.crash.journal_explorer import JournalExploration
from tests.support.crash.record_explorer import RecordExploration
from tests.support.crash.region_log_explorer import RegionLogExploration
from tests.support.disk_in_memory import Lies

STORAGE = ["record", "bitmap", "region_log", "journal"]


@pytest.mark.every_core
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", STORAGE)
def test_what_was_promised_of_a_file_survives_any_crash(
    name: str, campaign: Campaign
) -> None:
    campaign.run(STORAGE)
    found = campaign.components[name]
    assert not found.problems, "\n".join(found.problems)
    assert found.distinct >= COMPONENTS[name].images_min


@pytest.mark.every_core
@pytest.mark.timeout(600)
def test_two_hundred_thousand_distinct_images_held(campaign: Campaign) -> None:
    campaign.run(COMPONENTS)
    assert not campaign.problems, "\n".join(campaign.problems)
    assert campaign.distinct >= IMAGES_MIN


@pytest.mark.every_core
def test_a_seed_is_a_run_to_the_byte() -> None:
    tasks = [(name, 7) for name in COMPONENTS for _ in range(2)]
    runs = sorted(outcomes(tasks, jobs=2), key=lambda run: run.component)
    for one, other in zip(runs[::2], runs[1::2], strict=True):
        assert one.component == other.component
        assert sorted(one.distinct) == sorted(other.distinct), one.component
        assert (one.steps, one.tried) == (other.steps, other.tried), one.component


def _lies(operation: str, suffix: str) -> Lies:
    return lambda called, path: called == operation and path.endswith(suffix)


BREAKAGES: dict[str, tuple[Callable[..., Exploration], Lies]] = {
    "a record": (RecordExploration, _lies("datasync", ".record")),
    "a record's name": (RecordExploration, _lies("sync_directory", "")),
    "pages of a bitmap": (BitmapExploration, _lies("datasync", ".changed")),
    "a region log": (RegionLogExploration, _lies("datasync", ".regions")),
    "a journal": (JournalExploration, _lies("datasync", ".journal")),
    "a journal's name": (JournalExploration, _lies("sync_directory", "")),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_flush_that_is_left_out_is_found(name: str) -> None:
    kind, lies = BREAKAGES[name]
    for seed in range(20):
        try:
            kind(seed, images_per_step=40, lies=lies).run()
        except ViolationError:
            return
    pytest.fail(f"nothing went wrong although flushes of {name} are left out")
