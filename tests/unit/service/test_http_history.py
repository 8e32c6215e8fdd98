"""What the status page draws: bounded rings, and the map of where hosts write."""

from __future__ import annotations

import math

from common.service.http.history import (
    COARSE_EVERY,
    COARSE_SAMPLES,
    FIELDS,
    FINE_SAMPLES,
    MAP_ROWS,
    GroupHistory,
    Ring,
    WriteMap,
    sample,
)
from common.service.status import (
    GroupRole,
    GroupState,
    GroupStatus,
    LinkState,
    LinkStatus,
)


def row(time: float, age: float = math.nan) -> tuple[float, ...]:
    return (time, age, *(math.nan for _ in FIELDS[2:]))


def test_a_ring_keeps_the_newest_in_order() -> None:
    ring = Ring(4)
    assert ring.columns()[0] == []
    for time in range(3):
        ring.add(row(time))
    assert ring.columns()[0] == [0, 1, 2]
    for time in range(3, 11):
        ring.add(row(time, time * 10))
    assert ring.columns()[0] == [7, 8, 9, 10]
    assert ring.columns()[1] == [70, 80, 90, 100]
    assert ring.columns()[2] == [None] * 4


def test_the_coarse_ring_keeps_the_worst_age() -> None:
    history = GroupHistory()
    for time in range(3 * COARSE_EVERY):
        age = 99.0 if time == COARSE_EVERY + 3 else time % 7
        history.add(row(time, math.nan if time < COARSE_EVERY else age))

    found = history.to_json()

    assert found["coarse"][0] == [23, 47, 71]
    assert found["coarse"][1] == [None, 99, 6]
    assert len(found["fine"][0]) == 3 * COARSE_EVERY


def test_memory_is_bounded_however_long_it_runs() -> None:
    history = GroupHistory()
    for time in range(FINE_SAMPLES + COARSE_EVERY * (COARSE_SAMPLES + 5)):
        history.add(row(time))
    for minute in range(3 * MAP_ROWS):
        history.add_map(60.0 * minute, {"v": {"mark": minute, "columns": [1]}})

    found = history.to_json()

    assert len(found["fine"][0]) == FINE_SAMPLES
    assert len(found["coarse"][0]) == COARSE_SAMPLES
    assert len(found["written"]["v"]["rows"]) == MAP_ROWS
    assert history.marks() == {"v": 3 * MAP_ROWS - 1}


def test_a_map_counts_a_minute_in_one_row_and_forgets_where_a_volume_grew() -> None:
    found = WriteMap()
    found.add(60, 1, [1, 0])
    found.add(65, 2, [1, 1])
    found.add(121, 3, [0, 1])
    assert found.to_json() == {"times_seconds": [60, 120], "rows": [[2, 1], [0, 1]]}

    found.add(125, 4, [1, 0, 0])
    assert found.to_json() == {"times_seconds": [120], "rows": [[1, 0, 0]]}


def test_what_a_status_does_not_know_is_no_number() -> None:
    group = GroupStatus(
        name="g",
        role=GroupRole.RECEIVING,
        state=GroupState.IDLE,
        link=LinkStatus(state=LinkState.DOWN),
        recovery_point_age_seconds=2.5,
        cycle_number=4,
    )
    found = dict(zip(FIELDS, sample(group, 100.0), strict=True))

    assert found["time_seconds"] == 100
    assert found["age_seconds"] == 2.5
    assert found["cycle_number"] == 4
    assert math.isnan(found["changed_bytes"])
