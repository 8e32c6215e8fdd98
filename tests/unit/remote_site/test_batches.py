from __future__ import annotations

from collections.abc import Sequence

import pytest

from common.errors import ProtocolError
from common.replication.cycle_messages import COVERED_BYTES_MAX, Tracks
from common.replication.tracks import RunData, encode_records
from remote_site.batches import decode_batch
from remote_site.receiver import VolumeShape

TRACK = 4096
SHAPE = VolumeShape(1 << 40, TRACK)


def frame(runs: Sequence[RunData]) -> Tracks:
    payload, raw_bytes = encode_records(runs, 1)
    return Tracks(1, b"c" * 16, 0, 0, raw_bytes, payload)


def run(first: int, count: int = 1) -> RunData:
    return RunData(first, count, bytes([first % 255 + 1]) * TRACK * count)


def grouped(*frames: Sequence[RunData]) -> list[list[tuple[int, int]]]:
    groups = decode_batch([frame(runs) for runs in frames], SHAPE)
    return [[(each.first, each.count) for each in group.records] for group in groups]


def test_frames_that_do_not_touch_are_applied_together() -> None:
    assert grouped([run(5)], [run(0, 2), run(9)], [run(4)]) == [
        [(5, 1), (0, 2), (9, 1), (4, 1)]
    ]


@pytest.mark.parametrize("again", [run(5), run(4, 2), run(5, 3), run(3, 5)])
def test_a_track_that_comes_again_is_applied_later(again: RunData) -> None:
    assert grouped([run(0)], [run(5)], [again], [run(20)]) == [
        [(0, 1), (5, 1)],
        [(again.first, again.count), (20, 1)],
    ]


def test_a_group_covers_no_more_than_its_share() -> None:
    half = COVERED_BYTES_MAX // TRACK // 2
    zeroes = [[RunData(at * half, half, None)] for at in range(5)]
    assert [len(group) for group in grouped(*zeroes)] == [2, 2, 1]


def test_runs_are_traced_to_the_frames_that_brought_them() -> None:
    frames = [frame([run(7), run(0, 2)]), frame([run(20)]), frame([run(30), run(4)])]
    (group,) = decode_batch(frames, SHAPE)
    found = list(group.frames_of([(0, 2), (4, 1), (7, 1)]))
    assert [runs for _, runs in found] == [[(0, 2), (7, 1)], [(4, 1)]]
    assert [which for which, _ in found] == [frames[0], frames[2]]
    assert list(group.frames_of([])) == []


def test_one_malformed_frame_spoils_the_batch_before_any_is_applied() -> None:
    broken = frame([run(5)])
    payload = bytearray(broken.payload)
    payload[0] = 9
    spoiled = Tracks(1, b"c" * 16, 1, 0, broken.raw_bytes, payload)
    with pytest.raises(ProtocolError):
        decode_batch([frame([run(1)]), spoiled], SHAPE)
