"""The day's judgement can say no: each thing that it looks at, wrong by the least."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.judgement import READ_BYTES, TRACK_BYTES, are_there, is_little, tracks_apart

PROMISED = {0: 3, 1: 2, 2: 0}


def test_one_transaction_less_than_was_promised_is_seen() -> None:
    assert are_there({0: 3, 1: 2}, PROMISED)
    assert are_there({0: 4, 1: 2, 2: 1}, PROMISED), "more than is promised"
    assert not are_there({0: 3, 1: 1}, PROMISED)
    assert not are_there({0: 9}, PROMISED), "one client's do not make up for another's"


def test_a_byte_more_than_may_be_moved_is_seen() -> None:
    most = 12 * TRACK_BYTES
    assert is_little(most, 10)
    assert not is_little(most + 1, 10)
    assert is_little(0, 0)
    assert not is_little(1, 0)


@pytest.mark.parametrize("at", [0, TRACK_BYTES, READ_BYTES + TRACK_BYTES - 1])
def test_one_wrong_byte_is_seen_wherever_it_is(tmp_path: Path, at: int) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    content = bytearray(READ_BYTES + 3 * TRACK_BYTES)
    mine.write_bytes(content)
    theirs.write_bytes(content)
    assert tracks_apart(mine, theirs) == 0
    content[at] ^= 1
    theirs.write_bytes(content)
    assert tracks_apart(mine, theirs) == tracks_apart(theirs, mine) == 1


def test_a_device_that_is_longer_is_another_one(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.write_bytes(bytes(READ_BYTES))
    theirs.write_bytes(bytes(READ_BYTES + 2 * TRACK_BYTES))
    assert tracks_apart(mine, theirs) == tracks_apart(theirs, mine) == 2
