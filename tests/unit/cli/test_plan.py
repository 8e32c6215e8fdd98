"""`farshore plan`: its formulas, the records that it reads, and the command."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from common.cli.plan.formulas import (
    HEADROOM,
    JOURNAL_FULL_SHARE,
    Record,
    Sample,
    Wanted,
    journal_bytes,
    link_rate,
    make_plan,
    memory_bytes,
    rpo_reached,
    targets_bytes,
)
from common.cli.plan.recorded import NotRecordedError, between, read_file, record
from common.service.retention_rules import parse_rule

MIB = 1 << 20
ROOT = Path(__file__).parents[3]
EVEN = Record([Sample(100.0, 100.0 * MIB, 40.0 * MIB)])
BUSY = Record([Sample(10, 0), Sample(10, 100 * MIB), Sample(80, 80 * MIB)])
WANTED = Wanted(rpo_seconds=4.25, volume_bytes=1000 * MIB, bitmap_bytes=MIB)

amounts = st.floats(0, 1e12, allow_nan=False)
records = st.lists(
    st.builds(Sample, st.floats(0.01, 1e6), amounts), min_size=1, max_size=20
).map(Record)


def test_a_burst_is_the_greatest_in_any_stretch() -> None:
    assert BUSY.burst(10) == pytest.approx(100 * MIB)
    assert BUSY.burst(5) == pytest.approx(50 * MIB)
    assert BUSY.burst(20) == pytest.approx(110 * MIB)
    assert BUSY.burst(90) == pytest.approx(180 * MIB)
    assert BUSY.burst(200) == pytest.approx(2 * 180 * MIB)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 99)), min_size=1, max_size=9),
    st.integers(1, 30),
    st.integers(0, 60),
)
def test_no_stretch_has_more_than_the_burst(
    parts: list[tuple[int, int]], seconds: int, start: int
) -> None:
    even = [rate for length, rate in parts for _ in range(length)]
    recorded = Record([Sample(length, length * rate) for length, rate in parts])
    stretch = even[start : start + seconds]

    assert sum(stretch) <= recorded.burst(seconds) + 1e-6
    found = [sum(even[at : at + seconds]) for at in range(len(even))]
    mean = seconds * sum(even) / len(even)
    assert recorded.burst(seconds) <= max(*found, mean, 0) + 1e-6


def test_the_link_carries_half_the_promise_s_burst_in_the_other_half() -> None:
    assert link_rate(EVEN, WANTED, 4.25, 0.4) == pytest.approx(HEADROOM * 0.4 * MIB)
    assert link_rate(BUSY, WANTED, 4.25, 1.0) == pytest.approx(HEADROOM * 10 * MIB)


@given(records, st.floats(0.5, 1e5), st.floats(0.01, 1.5), st.floats(1, 1e12))
def test_a_promise_that_is_reached_is_one_that_the_link_keeps(
    recorded: Record, rpo: float, ratio: float, bandwidth: float
) -> None:
    wanted = replace(WANTED, rpo_seconds=rpo)
    reached = rpo_reached(recorded, wanted, ratio, bandwidth)

    if reached is not None:
        rate = link_rate(recorded, wanted, reached * 1.000001, ratio)
        assert rate <= bandwidth * 1.001 + 1.0
    needed = link_rate(recorded, wanted, rpo, ratio)
    if bandwidth > needed * 1.001:
        assert reached is not None


def test_a_link_below_the_mean_keeps_no_promise() -> None:
    assert rpo_reached(EVEN, WANTED, 1.0, 0.5 * MIB) is None


def test_targets_hold_two_cycles_and_never_more_than_the_volumes_twice() -> None:
    outage = replace(WANTED, resume_timeout_seconds=95.75)
    assert targets_bytes(EVEN, outage) == pytest.approx(104.25 * MIB)
    for_ever = replace(WANTED, resume_timeout_seconds=1e9)
    assert targets_bytes(EVEN, for_ever) == pytest.approx(1004.25 * MIB)


def test_journals_hold_what_rules_keep() -> None:
    rules = tuple(map(parse_rule, ("all for 100s", "1 per 10m for 1h")))
    found = journal_bytes(EVEN, replace(WANTED, retain=rules))

    assert found * JOURNAL_FULL_SHARE == pytest.approx((8.5 + 100 + 6 * 600) * MIB)
    small = replace(WANTED, retain=rules, volume_bytes=50 * MIB)
    found = journal_bytes(EVEN, small)
    assert found * JOURNAL_FULL_SHARE == pytest.approx((8.5 + 100 + 6 * 50) * MIB)


def test_a_plan_takes_the_ratio_that_was_recorded_unless_told() -> None:
    assert make_plan(EVEN, WANTED).wire_ratio == pytest.approx(0.4)
    assert make_plan(BUSY, WANTED).wire_ratio == 1.0
    assert make_plan(EVEN, replace(WANTED, wire_ratio=0.7)).wire_ratio == 0.7
    assert memory_bytes(MIB, 512 * MIB) == (160 + 6 + 512) * MIB


# -- records -----------------------------------------------------------------------


def test_a_restart_of_the_daemon_is_no_negative_change() -> None:
    found = list(between([(0, 50, 5), (5, 90, 9), (10, 30, 3), (10, 30, 3)]))

    assert found == [Sample(5, 40, 4), Sample(5, 30, 3)]


def written(tmp_path: Path, text: str) -> str:
    (tmp_path / "record").write_text(text)
    return str(tmp_path / "record")


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    path, moments = str(tmp_path / "orders.jsonl"), iter(range(0, 100, 5))
    changed = iter([1000, 4000, 4000])

    def fetch() -> dict[str, Any]:
        totals = {"bytes_changed": next(changed), "bytes_on_wire": 10}
        receiving = {"name": "other", "totals": None}
        return {"groups": [{"name": "orders", "totals": totals}, receiving]}

    now = {"time": 0.0}

    def pause() -> None:
        now["time"] = float(next(moments)) + 5

    assert record(path, fetch, lambda: now["time"], pause, 12.0) == 3
    assert read_file(path, None, 5.0) == [Sample(5, 3000, 0), Sample(5, 0, 0)]
    assert read_file(path, "orders", 5.0) == read_file(path, None, 5.0)


def test_iostat_s_first_look_is_left_out(tmp_path: Path) -> None:
    looks = [
        {"disk": [{"disk_device": "sda", "kB_wrtn/s": 9e9}]},
        {
            "disk": [
                {"disk_device": "sda", "kB_wrtn/s": 10.0},
                {"disk_device": "sdb", "wkB/s": 1.0},
            ]
        },
    ]
    path = written(
        tmp_path, json.dumps({"sysstat": {"hosts": [{"statistics": looks}]}})
    )

    assert read_file(path, "sda", 5.0) == [Sample(5, 5 * 10240)]
    assert read_file(path, None, 5.0) == [Sample(5, 5 * 11264)]
    with pytest.raises(NotRecordedError):
        read_file(path, "sdz", 5.0)


def test_a_history_goes_on_with_its_fine_ring(tmp_path: Path) -> None:
    fields = ["time_seconds", "total_changed_bytes", "total_wire_bytes"]
    coarse = [[0, 120, 240], [0, 100, 200], [0, 10, 20]]
    fine = [[200, 205, None], [150, 155, None], [15, 16, None]]
    path = written(
        tmp_path, json.dumps({"fields": fields, "coarse": coarse, "fine": fine})
    )

    assert read_file(path, None, 5.0) == [
        Sample(120, 100, 10),
        Sample(80, 50, 5),
        Sample(5, 5, 1),
    ]


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"sysstat": {}}'])
def test_what_is_no_record_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotRecordedError, match="no record of farshore plan"):
        read_file(written(tmp_path, text), None, 5.0)


# -- the command -------------------------------------------------------------------


def test_without_a_rate_it_says_where_to_take_one_from(
    farshore: Callable[..., Result],
) -> None:
    refused = farshore("plan", "--size", "1GiB")

    assert refused.exit_code == 2
    assert "--record FILE" in refused.output
    assert farshore("plan", "--from", "/nonexistent").exit_code == 1


def test_sizes_and_promises_come_from_the_config(
    farshore: Callable[..., Result],
) -> None:
    config = str(ROOT / "config/primary.toml")
    done = farshore("plan", "--rate", "1MiB/s", "--config", config, "--json")

    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["wanted"]["volume_bytes"] == 100 << 30
    assert found["wanted"]["rpo_seconds"] == 5.0
    assert found["plan"]["rpo_reached_seconds"] is None
    assert farshore("plan", "no", "--rate", "1MiB/s", "--config", config).exit_code == 3


def test_the_page_shows_what_the_command_prints(
    farshore: Callable[..., Result],
) -> None:
    page = (ROOT / "docs/operating/sizing.md").read_text()
    command = re.search(r"```sh\n(farshore plan --rate.*?)```", page, re.DOTALL)
    shown = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert command is not None
    assert shown is not None
    words = re.findall(r'"[^"]*"|[^\s\\]+', command[1])[1:]

    done = farshore(*(word.strip('"') for word in words))

    lines = [line.rstrip() for line in done.output.splitlines()]
    assert lines == textwrap.dedent(shown[1]).splitlines()
