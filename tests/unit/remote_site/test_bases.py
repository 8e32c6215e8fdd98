"""Differences against what the secondary holds: applied exactly, or not at all."""

from __future__ import annotations

import pytest

from common.errors import ProtocolError
from common.replication.cycle_messages import Encoding
from common.replication.delta import apply_difference
from common.replication.tracks import TrackRecord, run_hash
from remote_site.applier import apply_tracks
from remote_site.bases import held_pieces
from remote_site.group_disk import GroupDisk
from remote_site.recovery_point import PointImage
from tests.support.remote_store_group import (
    BINDING,
    DATA,
    SETTINGS,
    filled,
    make_files,
    tracks_of,
)
from tests.support.simulated_files import SimulatedFiles

TRACK = DATA.track_bytes
OLD, NEW = filled(DATA, 1, 2), filled(DATA, 2, 2)
AT = 3


def with_point(files: SimulatedFiles) -> GroupDisk:
    disk = GroupDisk(files, SETTINGS)
    disk.open()
    disk.bind(**BINDING)
    apply_tracks(disk.volumes[0], [tracks_of(DATA, AT, OLD)])
    disk.commit_point(1, b"1" * 16, 1, None)
    return disk


@pytest.fixture
def files() -> SimulatedFiles:
    return make_files()


@pytest.fixture
def disk(files: SimulatedFiles) -> GroupDisk:
    return with_point(files)


def difference(
    base: bytes = OLD, result: bytes = NEW, first: int = AT, **lies: bytes
) -> TrackRecord:
    data = lies.get("data", apply_difference(base, result))
    return TrackRecord(
        first,
        len(base) // TRACK,
        Encoding.XOR,
        None if base == result else memoryview(data),
        lies.get("result_hash", run_hash(result)),
        lies.get("base_hash", run_hash(base)),
    )


def held(disk: GroupDisk, first: int = AT, count: int = 2) -> bytes:
    return disk.volumes[0].device.read(first * TRACK, count * TRACK)


def preserved(disk: GroupDisk) -> list[tuple[int, int]]:
    journal = disk.volumes[0].journals[-1]
    return [(entry[0], entry[1]) for entry in journal.find(0, 64)]


def test_a_difference_to_what_is_held_becomes_the_track(disk: GroupDisk) -> None:
    assert apply_tracks(disk.volumes[0], [difference()]) == []
    assert held(disk) == NEW
    assert preserved(disk) == [(AT, 2)]
    assert PointImage(disk.volumes[0], 1).read(AT * TRACK, 2 * TRACK) == OLD


def test_an_equal_track_is_compared_and_nothing_more(
    disk: GroupDisk, files: SimulatedFiles
) -> None:
    files.counts.clear()
    assert apply_tracks(disk.volumes[0], [difference(OLD, OLD)]) == []
    assert "write" not in files.counts
    assert preserved(disk) == []


def test_an_equal_track_that_is_not_held_is_asked_for(disk: GroupDisk) -> None:
    assert apply_tracks(disk.volumes[0], [difference(NEW, NEW)]) == [(AT, 2)]
    assert held(disk) == OLD


def test_another_base_changes_nothing_and_is_asked_for_whole(
    disk: GroupDisk, files: SimulatedFiles
) -> None:
    other = filled(DATA, 9, 2)
    records = [
        difference(first=40),  # zeroes are held there
        tracks_of(DATA, 20, other),
        difference(other, NEW),
    ]
    assert apply_tracks(disk.volumes[0], records) == [(AT, 2), (40, 2)]
    assert held(disk) == OLD
    assert held(disk, 40) == bytes(2 * TRACK)
    assert held(disk, 20) == other, "the rest of the frame is applied"
    assert preserved(disk) == [(20, 2)]


def test_a_difference_that_comes_again_counts_as_applied(disk: GroupDisk) -> None:
    apply_tracks(disk.volumes[0], [difference()])
    assert apply_tracks(disk.volumes[0], [difference()]) == []
    assert held(disk) == NEW
    assert preserved(disk) == [(AT, 2)]


def test_a_run_that_was_half_written_is_asked_for_whole(disk: GroupDisk) -> None:
    apply_tracks(disk.volumes[0], [difference()])
    disk.volumes[0].device.write(AT * TRACK, OLD[:TRACK])
    assert apply_tracks(disk.volumes[0], [difference()]) == [(AT, 2)]
    apply_tracks(disk.volumes[0], [tracks_of(DATA, AT, NEW)])
    assert held(disk) == NEW
    assert PointImage(disk.volumes[0], 1).read(AT * TRACK, 2 * TRACK) == OLD


@pytest.mark.parametrize(
    "lies",
    [
        {"result_hash": b"x" * 16},
        {"data": bytes(2 * TRACK)},
        {"data": filled(DATA, 7, 2)},
    ],
)
def test_a_result_that_is_not_as_told_is_never_written(
    disk: GroupDisk, files: SimulatedFiles, lies: dict[str, bytes]
) -> None:
    files.counts.clear()
    records = [tracks_of(DATA, 20, NEW), difference(**lies)]
    with pytest.raises(ProtocolError, match="3\\+2 with its difference fails"):
        apply_tracks(disk.volumes[0], records)
    assert "write" not in files.counts, "neither device nor journal"
    assert (held(disk), held(disk, 20)) == (OLD, bytes(2 * TRACK))


def test_a_wrong_base_hash_is_never_written(disk: GroupDisk) -> None:
    assert apply_tracks(disk.volumes[0], [difference(base_hash=b"x" * 16)]) == [(AT, 2)]
    assert held(disk) == OLD


def test_a_track_changed_twice_in_a_cycle_builds_upon_itself(disk: GroupDisk) -> None:
    newest = filled(DATA, 5, 2)
    assert apply_tracks(disk.volumes[0], [difference()]) == []
    assert apply_tracks(disk.volumes[0], [difference(NEW, newest)]) == []
    assert held(disk) == newest
    assert PointImage(disk.volumes[0], 1).read(AT * TRACK, 2 * TRACK) == OLD


def test_pieces_of_the_newest_point_are_read_whatever_was_overwritten(
    disk: GroupDisk,
) -> None:
    volume = disk.volumes[0]
    apply_tracks(volume, [difference()])
    assert held(disk) == NEW
    assert held_pieces(volume, [(AT, 1), (AT + 1, 2)]) == OLD + bytes(TRACK)
    disk.commit_point(2, b"2" * 16, 2, None)
    assert held_pieces(volume, [(AT, 2)]) == NEW


def test_pieces_that_no_point_has_are_not_made_up(files: SimulatedFiles) -> None:
    disk = GroupDisk(files, SETTINGS)
    disk.open()
    disk.bind(**BINDING)
    volume = disk.volumes[0]
    assert held_pieces(volume, [(0, 1)]) is None, "there is none yet"
    disk.commit_point(1, b"1" * 16, 1, None)
    end = DATA.size_bytes // TRACK
    assert held_pieces(volume, [(0, 1), (end - 1, 1)]) == bytes(2 * TRACK)
    assert held_pieces(volume, [(0, 1), (end - 1, 2)]) is None
    assert held_pieces(volume, [(1 << 60, 1)]) is None
