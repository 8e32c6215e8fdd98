"""The record of drills: durable, bounded, and no danger to its group."""

from __future__ import annotations

import pytest

from common.cli.probes import environment
from common.errors import CorruptStateError
from common.service.drill_status import (
    DRILLS_MAX,
    PROBE_CHARACTERS_MAX,
    REASON_CHARACTERS_MAX,
    DrillReport,
    DrillVerdict,
)
from remote_site.drills import Drills
from tests.support.remote_store_group import make_files


def report(number: int, *, fill: str = "") -> DrillReport:
    return DrillReport(
        started_ns=10**18 + number,
        verdict=DrillVerdict.FAILED,
        reason=(fill or "no") * (REASON_CHARACTERS_MAX if fill else 1),
        probe=(fill or "p") * (PROBE_CHARACTERS_MAX if fill else 1),
        exit_code=-9,
        point=number,
        cut_ns=10**18,
        age_seconds=1.5,
        start_seconds=0.1,
        probe_seconds=2.0,
        stop_seconds=0.2,
    )


def test_the_newest_are_read_back_whatever_they_say() -> None:
    files = make_files()
    drills = Drills("/devices", files)
    drills.load()
    for number in range(DRILLS_MAX + 3):
        drills.add(report(number, fill="𝄞"))  # as many bytes as may be
    again = Drills("/devices", files)
    again.load()
    assert again.all == drills.all
    assert [each.point for each in again.all] == list(range(3, DRILLS_MAX + 3))
    assert again.all[-1].to_json()["started"].startswith("2001-09-09T01:46:40")
    assert again.all[-1].summary().verdict == "failed"


def test_a_record_that_is_lost_is_said_only_to_who_adds() -> None:
    files = make_files()
    Drills("/devices", files).add(report(1))
    file = files.open("/devices/drills")
    file.write(0, b"\xff" * file.size())
    file.close()
    drills = Drills("/devices", files)
    drills.load()
    assert drills.all == ()
    with pytest.raises(CorruptStateError, match="/devices/drills"):
        drills.add(report(2))


def test_names_that_become_the_same_variable_are_left_out() -> None:
    exports = [
        {"volume": name, "uris": [f"nbd://{name}"]} for name in ("a.b", "a-b", "c")
    ]
    copy = {
        "name": "t",
        "point": 7,
        "cut_time": "then",
        "label": None,
        "exports": exports,
    }
    told = environment("g", copy)
    assert told["FARSHORE_URI_C"] == "nbd://c"
    assert "FARSHORE_URI_A_B" not in told
    assert "FARSHORE_URI" not in told
    assert told["FARSHORE_URIS"] == "a.b nbd://a.b\na-b nbd://a-b\nc nbd://c\n"
