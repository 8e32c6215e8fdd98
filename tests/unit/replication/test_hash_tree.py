from __future__ import annotations

import os

from common.replication.hash_tree import (
    differing,
    leaves_of,
    leaves_of_zeroes,
    root_of,
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
        assert root_of(theirs) != root_of(leaves)
        assert differing(100, leaves, theirs) == [(100 + track, 1)]


def test_runs_that_differ_are_joined_where_they_touch() -> None:
    mine = [bytes([n]) * 16 for n in range(8)]
    theirs = list(mine)
    for track in (0, 1, 4, 7):
        theirs[track] = b"x" * 16
    assert differing(10, mine, theirs) == [(10, 2), (14, 1), (17, 1)]
    assert differing(10, mine, mine) == []


def test_tracks_that_changed_places_are_not_equal() -> None:
    a, b = b"a" * 16, b"b" * 16
    assert root_of([a, b]) != root_of([b, a])
