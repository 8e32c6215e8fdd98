"""Content that stands elsewhere is found at any alignment, and chance is not."""

from __future__ import annotations

import random

import numpy as np
import pytest

from common.replication.referenced import PIECE_BYTES
from common.replication.similarity import PieceIndex

RANDOM = random.Random(12)
PAGE = 2 * PIECE_BYTES


def noise(pages: int) -> bytes:
    return RANDOM.randbytes(pages * PAGE)


def index_of(content: bytes, first: int = 0) -> PieceIndex:
    count = len(content) // PIECE_BYTES
    index = PieceIndex(count)
    half = count // 2
    numbers = np.arange(first, first + count, dtype=np.int64)
    index.add(numbers[:half], content[: half * PIECE_BYTES])
    index.add(numbers[half:], content[half * PIECE_BYTES :])
    return index


@pytest.mark.parametrize("shift", [0, 1, 7, 24, 63, 64, 1000, 4095])
def test_pages_are_found_wherever_they_stand(shift: int) -> None:
    known = noise(8)
    index = index_of(known, first=200)
    log = (noise(1)[:shift] + known[2 * PAGE : 3 * PAGE] + noise(2))[: 3 * PAGE]
    assert index.find(log, 100) == [(200 + 2 * 2, 2)]


def test_a_page_with_rows_changed_is_found() -> None:
    known = noise(4)
    changed = bytearray(known[PAGE : 2 * PAGE])
    for at in range(50, PAGE, 500):
        changed[at : at + 40] = RANDOM.randbytes(40)
    assert index_of(known).find(bytes(changed), 100) == [(2, 2)]


def test_noise_and_blanks_are_like_nothing() -> None:
    known = noise(4) + b" " * PAGE + bytes(PAGE)
    index = index_of(known)
    assert index.find(noise(4), 100) == []
    assert index.find(b" " * PAGE + bytes(PAGE), 100) == []


def test_where_there_is_room_for_few_those_met_most_are_named() -> None:
    known = noise(3)
    log = known[:2048] + noise(1)[:2048] + known[PAGE:]
    index = index_of(known)
    assert index.find(log, 100) == [(0, 2), (2, 2), (4, 2)]
    assert index.find(log, 4) == [(2, 2), (4, 2)]
    assert index.find(log, 1) == []


def test_an_empty_index_finds_nothing() -> None:
    assert PieceIndex(0).find(noise(1), 100) == []
