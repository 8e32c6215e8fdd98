"""The status objects have exactly the keys that scripts rely on."""

from __future__ import annotations

import json

import pytest

from common.service.status import (
    AlarmStatus,
    CutStatus,
    GroupRole,
    GroupState,
    GroupStatus,
    LastCycleStatus,
    LinkState,
    LinkStatus,
    PeerStatus,
    PointStatus,
    ProgressStatus,
    RecoveryPointStatus,
    SiteStatus,
    VolumeStatus,
    age_seconds,
)

SECOND_NS = 1_000_000_000

PEER = PeerStatus(address="192.0.2.1:7420", state=LinkState.CONNECTED)


def full_group() -> GroupStatus:
    return GroupStatus(
        name="orders",
        role=GroupRole.SENDING,
        state=GroupState.DRAINING,
        lineage="ab" * 16,
        cycle_number=8,
        recovery_point=RecoveryPointStatus(
            number=7, cut_ns=0, current_as_of_ns=SECOND_NS, label="nightly"
        ),
        recovery_point_age_seconds=1.5,
        link=LinkStatus(
            state=LinkState.CONNECTED,
            peers=(PeerStatus(address="192.0.2.1:7420", state=LinkState.CONNECTED),),
        ),
        changed_bytes=4096,
        out_of_sync_bytes=8192,
        last_cycle=LastCycleStatus(
            number=7,
            hold_seconds=0.001,
            drain_seconds=0.5,
            tracks=3,
            bytes_changed=12288,
            bytes_on_wire=999,
        ),
        volumes=(VolumeStatus(name="data", size_bytes=1 << 30, track_bytes=4096),),
        progress=ProgressStatus(
            operation="first_copy", done_bytes=1, total_bytes=2, eta_seconds=3.0
        ),
        alarms=(AlarmStatus(name="cut_starved", message="…", since_ns=0),),
    )


def test_the_status_has_every_promised_key() -> None:
    site = SiteStatus(site="a", role="primary", version="1", groups=(full_group(),))
    status = site.to_json()

    assert list(status) == [*("site", "role", "version", "nbd", "tracing", "groups")]
    (group,) = status["groups"]
    assert list(group) == [
        "name",
        "role",
        "state",
        "lineage",
        "cycle_number",
        "recovery_point",
        "recovery_point_age_seconds",
        "link",
        "changed_bytes",
        "out_of_sync_bytes",
        "last_cycle",
        "volumes",
        "progress",
        "last_verify",
        "forecast",
        "last_scrub",
        "test_copies",
        "last_drill",
        "hooks",
        "totals",
        "history",
        "role_change",
        "alarms",
    ]
    assert group["recovery_point"] == {
        "number": 7,
        "cut_time": "1970-01-01T00:00:00.000000Z",
        "current_as_of": "1970-01-01T00:00:01.000000Z",
        "label": "nightly",
    }
    assert list(group["link"]) == [
        "state",
        "site",
        "encrypted",
        "peers",
        "rate_bytes_per_second",
        "session_sent_bytes",
        "certificate",
        "peer_certificate",
    ]
    assert list(group["last_cycle"]) == [
        "number",
        "hold_seconds",
        "drain_seconds",
        "tracks",
        "bytes_changed",
        "bytes_on_wire",
    ]
    assert list(group["volumes"][0]) == [
        "name",
        "size_bytes",
        "track_bytes",
        "joining",
    ]
    assert list(group["progress"]) == [
        "operation",
        "done_bytes",
        "total_bytes",
        "eta_seconds",
    ]
    assert json.loads(json.dumps(status)) == status


def test_what_is_unknown_is_null_and_keeps_its_key() -> None:
    group = GroupStatus(
        name="orders",
        role=GroupRole.RECEIVING,
        state=GroupState.DISCONNECTED,
        link=LinkStatus(state=LinkState.DOWN),
    ).to_json()

    assert list(group) == list(full_group().to_json())
    for key in ("recovery_point", "recovery_point_age_seconds", "progress", "lineage"):
        assert group[key] is None


def test_points_and_cuts_have_every_promised_key() -> None:
    point = PointStatus(number=1, cut_ns=0, current_as_of_ns=0, size_bytes=5)
    cut = CutStatus(number=1, cut_ns=0, hold_seconds=0.1, committed=True)

    assert point.to_json() == {
        "number": 1,
        "cut_time": "1970-01-01T00:00:00.000000Z",
        "current_as_of": "1970-01-01T00:00:00.000000Z",
        "label": None,
        "bytes": 5,
        "pinned": False,
        "here": True,
    }
    assert list(cut.to_json()) == ["number", "cut_time", "hold_seconds", "committed"]


def test_the_words_for_states_are_the_promised_ones() -> None:
    assert {state.value for state in GroupState} == {
        "first_copy",
        "idle",
        "draining",
        "suspended",
        "disconnected",
        "suspect",
        "superseded",
        "taken_over",
        "failed",
    }
    links = ["connected", "connecting", "down", "refused"]
    assert [state.value for state in LinkState] == links


@pytest.mark.parametrize(("now", "age"), [(3 * SECOND_NS, 2.0), (0, 0.0)])
def test_an_age_is_never_negative(now: int, age: float) -> None:
    assert age_seconds(SECOND_NS, now) == age
