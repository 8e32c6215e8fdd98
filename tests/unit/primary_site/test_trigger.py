"""When the next cycle begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from common.service.config_primary import PrimaryGroup
from primary_site.trigger import NEVER, Observed, seconds_to_cut

SEEN = Observed(
    now=100.0,
    last_cut=90.0,
    last_commit=95.0,
    changed_bytes=0,
    schedule_due=None,
)


def group(**trigger: Any) -> PrimaryGroup:
    return PrimaryGroup.model_validate(
        {
            "name": "orders",
            "link": {
                "remotes": ["dr:7420"],
                "peer": "dr",
                "allow_plaintext_replication": True,
            },
            "volume": [{"name": "data", "device": "/d", "size": "1MiB"}],
            **trigger,
        }
    )


def test_the_first_cut_is_due_at_once_but_for_manual_and_schedule() -> None:
    first = replace(SEEN, last_cut=None, last_commit=None)
    for trigger in ({"rpo": "5s"}, {"interval": "30s"}, {"changed": "1MiB"}):
        assert seconds_to_cut(group(**trigger), first) == 0
    assert seconds_to_cut(group(manual=True), first) == NEVER
    due = replace(first, schedule_due=17.0)
    assert seconds_to_cut(group(schedule="*/5 * * * *"), due) == 17.0


def test_an_interval_counts_from_the_last_cut() -> None:
    assert seconds_to_cut(group(interval="30s"), SEEN) == 20.0
    assert seconds_to_cut(group(interval="5s"), SEEN) == 0


@pytest.mark.parametrize(("changed", "wait"), [(0, NEVER), (1 << 20, 0.0)])
def test_changed_bytes_trigger_once_they_are_reached(changed: int, wait: float) -> None:
    seen = replace(SEEN, changed_bytes=changed)
    assert seconds_to_cut(group(changed="1MiB"), seen) == wait


def test_with_a_recovery_point_objective_the_autopilot_decides() -> None:
    seen = replace(SEEN, last_commit=50.0, rpo_due=3.5)
    assert seconds_to_cut(group(rpo="10s"), seen) == 3.5


def test_hosts_get_a_rest_between_a_commit_and_the_next_cut() -> None:
    busy = replace(SEEN, last_commit=100.0, rpo_due=0.0)
    assert 0 < seconds_to_cut(group(rpo="10s"), busy) <= 0.1
    assert seconds_to_cut(group(rpo="100ms"), busy) == pytest.approx(0.01)
