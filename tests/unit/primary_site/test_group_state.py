"""The durable state of a group: its form, and what a start makes of it."""

from __future__ import annotations

from dataclasses import replace

import msgpack  # type: ignore[import-untyped]
import pytest

from common.errors import StateMismatchError
from common.ports import FileIdentity
from common.storage.bitmap import Bitmap
from common.storage.geometry import Geometry
from primary_site.group_state import (
    SENT_AHEAD_BYTES,
    GroupState,
    Verdict,
    VolumeState,
    from_record,
    to_record,
    verdict,
)

GEOMETRY = Geometry(100 * 4096 - 512, 4096, 16384)
DEVICE = FileIdentity(1, 2, GEOMETRY.size_bytes, 3)
SAVED = VolumeState(b"v" * 16, GEOMETRY.size_bytes, 4096, 16384, full=False)

STATES = [
    GroupState("orders", b"g" * 16, b"l" * 16),
    GroupState(
        "orders",
        b"g" * 16,
        b"l" * 16,
        cycle_number=9,
        cycle_id=b"c" * 16,
        committed_number=8,
        committed_cycle_id=b"d" * 16,
        committed_cut_ns=1 << 60,
        current_as_of_ns=(1 << 60) + 1,
        committed_label="ﬁrst ✓",
        relation_id=b"r" * 16,
        suspended=True,
        clean=True,
        volumes={"a": replace(SAVED, identity=DEVICE), "b": SAVED},
    ),
]


@pytest.mark.parametrize("state", STATES)
def test_a_state_comes_back_from_its_record(state: GroupState) -> None:
    packed = msgpack.packb(to_record(state), use_bin_type=True)
    assert from_record(msgpack.unpackb(packed), "x") == state


def test_another_format_is_refused_by_name() -> None:
    record = to_record(STATES[0]) | {"version": 7}
    with pytest.raises(StateMismatchError, match=r"/s/group\.record: .*7"):
        from_record(record, "/s/group.record")


def bits(*tracks: int) -> Bitmap:
    bitmap = Bitmap(GEOMETRY.track_count)
    for track in tracks:
        bitmap.set(track)
    return bitmap


def found(
    saved: VolumeState | None,
    *,
    clean: bool,
    hot: set[int] | None = None,
    identity: FileIdentity = DEVICE,
) -> Verdict:
    return verdict(
        GEOMETRY,
        saved,
        clean=clean,
        identity=identity,
        changed=bits(1, 50),
        acked=bits(1, 50),
        hot=hot or set(),
    )


def tracks_of(bitmap: Bitmap | None) -> list[tuple[int, int]] | None:
    return None if bitmap is None else list(bitmap.runs())


ALL = [(0, GEOMETRY.track_count)]


def test_a_new_volume_is_sent_whole() -> None:
    start = found(None, clean=False)
    assert (tracks_of(start.carried), start.suspect) == (ALL, None)
    assert (start.full, start.altered, start.acked.count) == (True, False, 0)


def test_after_a_clean_stop_the_bitmaps_count() -> None:
    start = found(replace(SAVED, identity=DEVICE), clean=True)
    assert tracks_of(start.carried) == [(1, 1), (50, 1)]
    assert (start.suspect, start.full) == (None, False)
    assert tracks_of(start.acked) == [(1, 1), (50, 1)]


def test_after_a_crash_hot_regions_join_and_all_of_it_is_only_suspected() -> None:
    start = found(SAVED, clean=False, hot={0, 24})
    assert tracks_of(start.carried) == [(0, 4), (50, 1), (96, 4)]
    assert tracks_of(start.suspect) == tracks_of(start.carried)
    assert tracks_of(start.acked) == [(50, 1)]
    assert (start.full, start.altered) == (False, False)


def test_hot_regions_count_even_after_a_clean_stop() -> None:
    start = found(replace(SAVED, identity=DEVICE), clean=True, hot={3})
    assert tracks_of(start.carried) == [(1, 1), (12, 4), (50, 1)]


@pytest.mark.parametrize(
    "identity",
    [
        FileIdentity(9, 2, GEOMETRY.size_bytes, 3),
        FileIdentity(1, 9, GEOMETRY.size_bytes, 3),
        FileIdentity(1, 2, GEOMETRY.size_bytes, 9),
    ],
)
def test_an_altered_device_is_compared_whole_and_nothing_stays_acked(
    identity: FileIdentity,
) -> None:
    start = found(replace(SAVED, identity=DEVICE), clean=True, identity=identity)
    assert tracks_of(start.carried) == tracks_of(start.suspect) == ALL
    assert (start.full, start.altered, start.acked.count) == (True, True, 0)


def test_after_a_crash_another_file_is_compared_whole_and_a_write_is_no_other() -> None:
    saved = replace(SAVED, identity=DEVICE)
    restored = FileIdentity(1, 9, GEOMETRY.size_bytes, 3)
    start = found(saved, clean=False, identity=restored, hot={0})
    assert tracks_of(start.carried) == tracks_of(start.suspect) == ALL
    assert (start.full, start.altered, start.acked.count) == (True, True, 0)
    written = FileIdentity(9, 2, GEOMETRY.size_bytes, 9)
    start = found(saved, clean=False, identity=written, hot={24})
    assert tracks_of(start.carried) == [(1, 1), (50, 1), (96, 4)]
    assert not start.altered


def test_a_full_copy_that_was_cut_short_stays_full_less_what_is_acked() -> None:
    start = found(replace(SAVED, full=True), clean=False, hot={0})
    assert tracks_of(start.carried) == ALL
    assert tracks_of(start.acked) == [(50, 1)]
    assert start.full


def test_a_first_copy_cut_short_compares_only_what_may_have_been_sent() -> None:
    geometry = Geometry(4 * SENT_AHEAD_BYTES, 4096, 4 << 20)
    ahead = SENT_AHEAD_BYTES // 4096
    acked = Bitmap(geometry.track_count)
    acked.set_range(0, 1000)
    acked.set_range(1010, 5)
    start = verdict(
        geometry,
        replace(SAVED, full=True),
        clean=False,
        identity=DEVICE,
        changed=Bitmap(geometry.track_count),
        acked=acked.copy(),
        hot=set(),
        has_committed=False,
    )
    assert tracks_of(start.carried) == [(0, geometry.track_count)]
    assert tracks_of(start.acked) == [(0, 1000), (1010, 5)]
    assert tracks_of(start.suspect) == [(0, 1015 + ahead)], "acked too, should it void"


def test_a_comparison_that_was_cut_short_goes_on_as_one() -> None:
    saved = replace(SAVED, full=True, suspect=True, identity=DEVICE)
    start = found(saved, clean=True)
    assert tracks_of(start.suspect) == ALL
    assert start.altered
