"""Both indexes answer as a plain list of entries would."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.storage.journal_format import ZERO_TRACKS_MAX, Entry
from common.storage.journal_index import (
    PAGE_ENTRIES,
    IndexDamagedError,
    OpenIndex,
    SealedIndex,
    write_index,
)
from tests.support.simulated_files import SimulatedFiles

PATH = "/journal/x.index"
RELATION = b"r" * 16
LATER = b"l" * 16


def sealed(index: OpenIndex) -> tuple[SimulatedFiles, SealedIndex]:
    files = SimulatedFiles()
    files.make_directory("/journal")
    write_index(files, PATH, RELATION, 4096, index)
    return files, SealedIndex.open(files, PATH, RELATION, 4096)


def overlapping(entries: list[Entry], first: int, count: int) -> list[Entry]:
    return sorted(e for e in entries if e[0] < first + count and e[0] + e[1] > first)


@st.composite
def disjoint_entries(draw: st.DrawFn) -> list[Entry]:
    steps = draw(
        st.lists(st.tuples(st.integers(0, 5), st.integers(1, 70)), max_size=60)
    )
    entries, at = [], 0
    for position, (gap, count) in enumerate(steps):
        entries.append((at + gap, count, 4096 + position))
        at += gap + count
    return draw(st.permutations(entries))


@settings(max_examples=150, deadline=None)
@given(
    disjoint_entries(),
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
    st.lists(st.tuples(st.integers(0, 900), st.integers(1, 300)), max_size=8),
)
def test_lookups_agree_with_a_list(
    entries: list[Entry], batch_sizes: list[int], ranges: list[tuple[int, int]]
) -> None:
    index = OpenIndex()
    rest, turn = list(entries), 0
    while rest:
        size = batch_sizes[turn % len(batch_sizes)]
        index.add(rest[:size])
        rest, turn = rest[size:], turn + 1
    assert index.entry_count == len(entries)
    _, stored = sealed(index)
    for first, count in [(0, 5000), *ranges]:
        wanted = overlapping(entries, first, count)
        assert index.find(first, count) == wanted
        assert stored.find(first, count) == wanted


def test_an_index_of_many_pages_finds_every_entry() -> None:
    index = OpenIndex()
    entries = [(3 * i, 2, 4096 + i) for i in range(5 * PAGE_ENTRIES + 1)]
    for start in range(0, len(entries), 100):
        index.add(entries[start : start + 100])
    _, stored = sealed(index)
    for number, entry in enumerate(entries):
        assert stored.find(entry[0] + 1, 1) == [entry]
        assert stored.find(entry[0] + 2, 1) == []
        around = stored.find(entry[0], 4)
        assert around == entries[number : number + 2]


def test_segments_stay_few() -> None:
    index = OpenIndex()
    for i in range(5000):
        index.add([(2 * i, 1, 4096 + i)])
    assert len(index.segments) <= 14  # about log2 of the entries


def test_a_reader_keeps_the_state_it_began_with() -> None:
    index = OpenIndex()
    index.add([(0, 1, 4096)])
    before = index.segments
    index.add([(1, 1, 8192)])
    assert [len(keys) for keys, _ in before] == [1]
    assert index.entry_count == 2


def test_the_largest_numbers_fit() -> None:
    index = OpenIndex()
    last = (1 << 38) - ZERO_TRACKS_MAX
    entry = (last, ZERO_TRACKS_MAX, 1 << 50)
    index.add([entry])
    _, stored = sealed(index)
    for lookup in (index, stored):
        assert lookup.find((1 << 38) - 1, 1) == [entry]
        assert lookup.find(last - 1, 1) == []


def test_an_index_of_another_journal_or_length_is_refused() -> None:
    index = OpenIndex()
    index.add([(0, 1, 4096)])
    files, _ = sealed(index)
    for relation, length in ((b"o" * 16, 4096), (RELATION, 8192)):
        with pytest.raises(IndexDamagedError):
            SealedIndex.open(files, PATH, relation, length)
    with pytest.raises(IndexDamagedError):
        SealedIndex.open(files, "/journal/none", RELATION, 4096)


def test_a_damaged_page_is_noticed_when_it_is_read() -> None:
    index = OpenIndex()
    index.add([(i, 1, 4096 + i) for i in range(10)])
    files, stored = sealed(index)
    files.trash(PATH, 4096 + 20, b"\xff\xff")
    with pytest.raises(IndexDamagedError):
        stored.find(0, 1)


def test_an_index_that_a_power_cut_left_answers_right_or_not_at_all() -> None:
    """Also where a merge cut short had left another one under this name, whole."""
    files, earlier = sealed(indexed(range(0, 30, 3)))
    earlier.close()
    later = indexed(range(0, 30, 2))
    wanted = later.find(0, 30)
    rng = random.Random(4)
    found = 0

    def check(_operation: str, _path: str) -> None:
        nonlocal found
        for image in files.crash_images(rng, 40):
            try:
                index = SealedIndex.open(image, PATH, LATER, 4096)
                answer = index.find(0, 30)
            except IndexDamagedError:
                continue
            assert answer == wanted
            found += 1

    files.hook = check
    write_index(files, PATH, LATER, 4096, later)
    files.hook = None
    check("end", "")
    assert found


def indexed(tracks: range) -> OpenIndex:
    index = OpenIndex()
    index.add([(track, 1, 4096 * track) for track in tracks])
    return index
