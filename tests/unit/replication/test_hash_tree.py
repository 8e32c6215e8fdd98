from __future__ import annotations

import os

from common.replication.hash_tree import (
    differing,
    leaves_of,
    leaves_of_zeroes,
    root_of,
    root_of_zeroes,
    zero_parts,
)

TRACK_BYTES = 4096


def test_zeroes_have_the_hashes_of_zeroes_also_where_the_last_track_is_short() -> None:
    for length in (512, TRACK_BYTES, 5 * TRACK_BYTES, 5 * TRACK_BYTES + 1536):
        made = leaves_of_zeroes(length, TRACK_BYTES)
        assert made == leaves_of(bytes(length), TRACK_BYTES)


def test_every_changed_byte_changes_the_root_and_one_leaf() -> None:
    data = bytearray(os.urandom(6 * TRACK_BYTES + 512))
    leaves = leaves_of(data, TRACK_BYTES)
    for track in range(7):
        changed = bytearray(data)
        changed[track * TRACK_BYTES] ^= 1
        theirs = leaves_of(changed, TRACK_BYTES)
        assert root_of([changed]) != root_of([data])
        assert differing(100, leaves, theirs) == [(100 + track, 1)]


def test_runs_that_differ_are_joined_where_they_touch() -> None:
    mine = [bytes([n]) * 16 for n in range(8)]
    theirs = list(mine)
    for track in (0, 1, 4, 7):
        theirs[track] = b"x" * 16
    assert differing(10, mine, theirs) == [(10, 2), (14, 1), (17, 1)]
    assert differing(10, mine, mine) == []


def test_a_root_is_of_the_bytes_however_they_come_in_parts() -> None:
    data = os.urandom(9 * TRACK_BYTES)
    assert root_of([data]) == root_of([data[:5], data[5:9000], data[9000:]])
    assert root_of([data[1:], data[:1]]) != root_of([data])
    for length in (512, 1 << 20, (1 << 20) + 512, 5 << 20):
        assert root_of_zeroes(length) == root_of([bytes(length)])
        assert sum(map(len, zero_parts(length))) == length
