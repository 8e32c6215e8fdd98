"""Power cuts and kills at every write and flush of the remote store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.errors import FarshoreError
from tests.support.crash.campaign import COMPONENTS, Campaign
from tests.support.crash.exploration import ViolationError
from tests.support.remote_store_explorer import Lie, RemoteExploration
from tests.support.reshaping_explorer import ReshapingExploration


@pytest.mark.every_core
@pytest.mark.timeout(600)
def test_every_crash_image_recovers_to_one_acknowledged_cut(
    campaign: Campaign,
) -> None:
    campaign.run(["remote"])
    found = campaign.components["remote"]
    assert not found.problems, "\n".join(found.problems)
    assert found.distinct >= COMPONENTS["remote"].images_min


def test_calls_that_fail_are_among_what_is_explored() -> None:
    run = RemoteExploration(0, images_per_step=2, error_odds=0.05)
    run.run()
    assert run.errors_met > 0


def _first_journal_flush() -> Lie:
    seen: set[str] = set()

    def lie(_explorer: RemoteExploration, _operation: str, path: str) -> bool:
        if not path.endswith(".journal") or path in seen:
            return False
        seen.add(path)
        return True

    return lie


def _flush_of(
    suffix: str, *, phase: str | None = None, anywhere: bool = False
) -> Callable[[], Lie]:
    def lie(explorer: RemoteExploration, _operation: str, path: str) -> bool:
        is_meant = suffix in path if anywhere else path.endswith(suffix)
        return is_meant and phase in {None, explorer.phase}

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

HISTORY_BREAKAGES: dict[str, Callable[[], Lie]] = {
    "a merged journal is not synced": _flush_of(".1.journal", phase="running"),
    "a catalogue is not synced": _flush_of("/catalogue.", anywhere=True),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_leaving_out_one_flush_is_found(name: str) -> None:
    """The explorer can fail: each flush of the store is needed, and it can tell."""
    for seed in range(40):
        try:
            RemoteExploration(
                seed, images_per_step=4, lie=BREAKAGES[name](), error_odds=0.0
            ).run()
        except (ViolationError, FarshoreError):
            return
    pytest.fail(f"nothing went wrong although {name}")


def test_merges_and_catalogues_are_among_what_is_explored() -> None:
    run = RemoteExploration(1, images_per_step=3, has_history=True, error_odds=0.0)
    run.run()
    assert run.merges > 0
    names = run.disk.list("/state/orders")
    assert any(name.startswith("catalogue.") for name in names)


@pytest.mark.parametrize("name", HISTORY_BREAKAGES)
def test_leaving_out_a_flush_of_history_is_found(name: str) -> None:
    for seed in range(40):
        lie = HISTORY_BREAKAGES[name]()
        try:
            RemoteExploration(
                seed, images_per_step=4, lie=lie, error_odds=0.0, has_history=True
            ).run()
        except (ViolationError, FarshoreError):
            return
    pytest.fail(f"nothing went wrong although {name}")


@pytest.mark.every_core
@pytest.mark.timeout(600)
def test_every_crash_image_has_the_volumes_that_each_point_had(
    campaign: Campaign,
) -> None:
    campaign.run(["reshaping"])
    found = campaign.components["reshaping"]
    assert not found.problems, "\n".join(found.problems)
    assert found.distinct >= COMPONENTS["reshaping"].images_min


class _Unwatched(ReshapingExploration):
    def at_step(self, operation: str, path: str) -> None:
        """Nobody looks: what it does is counted alone."""


def test_volumes_that_come_leave_and_grow_are_among_what_is_explored() -> None:
    runs = [_Unwatched(seed) for seed in range(COMPONENTS["reshaping"].seeds)]
    for run in runs:
        run.run()
    assert min(
        sum(run.came for run in runs),
        sum(run.left for run in runs),
        sum(run.grown for run in runs),
        sum(run.partly_copied for run in runs),
    )


@pytest.mark.parametrize("path", ["/later.img", "/devices", "/state/orders/store"])
def test_leaving_out_a_flush_of_volumes_that_change_is_found(path: str) -> None:
    for seed in range(20):
        lie = _flush_of(path)()
        try:
            ReshapingExploration(seed, images_per_step=4, lie=lie).run()
        except (ViolationError, FarshoreError):
            return
    pytest.fail(f"nothing went wrong although {path} is never flushed")
