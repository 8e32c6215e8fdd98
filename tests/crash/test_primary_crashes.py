"""The sending site under power loss and kills, at every write and flush."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.adoption_explorer import AdoptionExploration
from tests.support.crash.campaign import COMPONENTS, Campaign
from tests.support.crash.exploration import ViolationError
from tests.support.disk_in_memory import Lies
from tests.support.primary_explorer import PrimaryExploration


@pytest.mark.every_core
@pytest.mark.timeout(600)
def test_no_crash_loses_a_change_or_a_flushed_write(campaign: Campaign) -> None:
    campaign.run(["primary"])
    found = campaign.components["primary"]
    assert not found.problems, "\n".join(found.problems)
    assert found.distinct >= COMPONENTS["primary"].images_min


def test_the_explorer_reaches_what_it_is_there_for() -> None:
    runs = [PrimaryExploration(seed, images_per_step=2) for seed in range(100, 102)]
    for run in runs:
        run.run()
    assert sum(run.points_committed for run in runs) >= 2
    assert sum(run.tracks_acked_at_recovery for run in runs) > 0


def _flush_of(*suffixes: str) -> Callable[[], Lies]:
    return lambda: lambda _operation, path: path.endswith(suffixes)


BREAKAGES: dict[str, Callable[[], Lies]] = {
    "the devices are not synced": _flush_of(".img"),
    "the region log is not synced": _flush_of(".regions"),
    "pages of changes are not synced": _flush_of(".changed"),
    "pages of acked tracks are not synced": _flush_of(".acked"),
    "the record is not synced": _flush_of(".record"),
    "a new record's bytes are not synced": _flush_of(".record.new"),
    "the state directory is never synced": _flush_of("/groups/orders"),
    "the devices' directory is never synced": _flush_of("/devices"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_leaving_out_one_flush_of_the_primary_is_found(name: str) -> None:
    """The explorer can fail: each of these flushes is needed, and it can tell."""
    for seed in (8, *range(40)):  # the first finds what few others do
        try:
            PrimaryExploration(seed, lies=BREAKAGES[name]()).run()
        except ViolationError:
            return
    pytest.fail(f"nothing went wrong although {name}")


@pytest.mark.every_core
@pytest.mark.timeout(600)
def test_no_crash_leaves_half_of_a_state_that_is_given_back(
    campaign: Campaign,
) -> None:
    campaign.run(["adoption"])
    found = campaign.components["adoption"]
    assert not found.problems, "\n".join(found.problems)
    assert found.distinct >= COMPONENTS["adoption"].images_min


@pytest.mark.parametrize("path", ["/group.record", "/group.record.new", "/orders"])
def test_leaving_out_the_flushes_of_a_state_that_is_given_back_is_found(
    path: str,
) -> None:
    for seed in range(20):
        try:
            AdoptionExploration(seed, images_per_step=6, lies=_flush_of(path)()).run()
        except ViolationError:
            return
    pytest.fail(f"nothing went wrong although {path} is never flushed")
