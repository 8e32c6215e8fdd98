"""Telling ranges apart, against a model that has one element a byte or a track."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ports import File
from common.storage.bitmap import Bitmap
from common.storage.extents import (
    DIRTY,
    EXTENTS_MAX,
    HOLE_RUN_BYTES_MIN,
    WINDOW_TRACKS,
    WINDOWS_MAX,
    Extents,
    hole_bits,
    joined,
    read_runs,
    tell_changed,
    without_ranges,
    worth_telling,
)
from common.storage.files import SystemFiles
from common.storage.geometry import Geometry
from tests.support.simulated_files import SimulatedFiles

TRACK = 4096
SIZE = 200 * TRACK - 1536
GEOMETRY = Geometry(SIZE, TRACK, 4 * TRACK)

tracks = st.sets(st.integers(0, GEOMETRY.track_count - 1))
ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
    lambda r: (r[0], min(r[1], SIZE - r[0]))
)


def spread(extents: Iterable[tuple[int, int]]) -> list[int]:
    """One element for each 512 bytes; for lists of aligned extents."""
    found: list[int] = []
    for length, flags in extents:
        assert length > 0
        found += [flags] * length
    return found


def bitmap_of(count: int, chosen: Iterable[int]) -> Bitmap:
    bitmap = Bitmap(count)
    for track in chosen:
        bitmap.set(track)
    return bitmap


@given(tracks, tracks, ranges)
def test_changed_is_the_union_of_the_bitmaps_to_the_byte(
    one: set[int], other: set[int], asked: tuple[int, int]
) -> None:
    offset, length = asked
    bitmaps = [bitmap_of(GEOMETRY.track_count, chosen) for chosen in (one, other)]
    told = tell_changed(bitmaps, GEOMETRY, offset, length)
    assert spread(told) == [
        int(at // TRACK in one | other) for at in range(offset, offset + length)
    ]
    assert joined(told) == told


@pytest.mark.parametrize("dirty_track", [0, 5, WINDOW_TRACKS - 1, WINDOW_TRACKS])
def test_a_huge_range_is_told_in_few_long_extents(dirty_track: int) -> None:
    count = (WINDOWS_MAX + 3) * WINDOW_TRACKS
    geometry = Geometry(count * TRACK, TRACK, TRACK)
    bitmap = bitmap_of(count, [dirty_track])
    told = tell_changed([bitmap], geometry, 0, geometry.size_bytes)
    at = 0
    for length, flags in told:
        is_dirty = at <= dirty_track * TRACK < at + length
        assert flags == (DIRTY if is_dirty else 0) or length == TRACK
        at += length
    assert at <= geometry.size_bytes
    clean = tell_changed([Bitmap(count)], geometry, 0, geometry.size_bytes)
    assert clean == [(WINDOWS_MAX * WINDOW_TRACKS * TRACK, 0)]


def test_a_range_in_pieces_is_told_in_bounded_answers_that_go_on() -> None:
    count = 3 * EXTENTS_MAX + 7
    geometry = Geometry(count * TRACK, TRACK, TRACK)
    bitmap = bitmap_of(count, range(0, count, 2))
    offset, answers = 0, 0
    while offset < geometry.size_bytes:
        told = tell_changed([bitmap], geometry, offset, geometry.size_bytes - offset)
        assert 0 < len(told) <= EXTENTS_MAX
        for length, flags in told:
            assert length == TRACK
            assert flags == (offset // TRACK + 1) % 2
            offset += length
        answers += 1
    assert answers == 4


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=30),
    st.integers(0, 20),
)
def test_a_track_is_a_hole_only_if_all_of_it_is(
    pieces: list[tuple[int, bool]], first: int
) -> None:
    extents = [(length * 1024, is_hole) for length, is_hole in pieces]
    span = sum(length for length, _ in extents)
    count = -(-span // TRACK)
    geometry = Geometry((first + count) * TRACK + 512, TRACK, TRACK)
    model = spread((length, int(is_hole)) for length, is_hole in extents)
    model += [0] * (count * TRACK - span)
    found = hole_bits(extents, geometry, first, count)
    assert found.tolist() == [
        all(model[t * TRACK : (t + 1) * TRACK]) for t in range(count)
    ]


def test_the_last_track_may_be_cut_and_is_a_hole_all_the_same() -> None:
    last = GEOMETRY.track_count - 1
    _, length = GEOMETRY.byte_range(last, 1)
    assert length < TRACK
    assert hole_bits([(length, True)], GEOMETRY, last, 1).tolist() == [True]
    assert hole_bits([(length, False)], GEOMETRY, last, 1).tolist() == [False]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.sampled_from([0, 3])), min_size=1),
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 90)), max_size=8),
    st.integers(0, 100),
)
def test_written_ranges_are_data_whatever_was_said(
    extents: Extents, written: list[tuple[int, int]], offset: int
) -> None:
    model = spread(extents)
    for start, length in written:
        for at in range(start, start + length):
            if offset <= at < offset + len(model):
                model[at - offset] = 0
    assert spread(without_ranges(extents, offset, written)) == model


@given(
    st.lists(st.tuples(st.integers(1, 9000), st.booleans()), max_size=12),
    st.integers(1, 40_000),
)
def test_only_long_holes_are_told_of_and_all_of_the_range(
    extents: list[tuple[int, bool]], length: int
) -> None:
    told = worth_telling(extents, length)
    assert sum(size for size, _ in told) == length
    model = spread((size, int(is_hole)) for size, is_hole in extents)[:length]
    model += [0] * (length - len(model))
    at = 0
    for size, is_hole in told:
        if is_hole:
            assert size >= HOLE_RUN_BYTES_MIN
            assert all(model[at : at + size])
        at += size


@pytest.mark.parametrize("kind", ["simulated", "real"])
def test_runs_hold_the_bytes_and_leave_holes_out(kind: str, tmp_path: Path) -> None:
    file: File
    if kind == "real":
        file = SystemFiles().open(str(tmp_path / "sparse"), create=True)
    else:
        file = SimulatedFiles().open("/sparse", create=True)
    file.truncate(1 << 20)
    file.write(256 << 10, b"x" * (64 << 10))
    runs = read_runs(file, 128 << 10, 512 << 10)
    assert isinstance(runs, list)
    assert [(size, None if data is None else bytes(data)) for size, data in runs] == [
        (128 << 10, None),
        (64 << 10, b"x" * (64 << 10)),
        (320 << 10, None),
    ]
    assert read_runs(file, 256 << 10, 4096) == b"x" * 4096
    assert read_runs(file, (256 << 10) - 512, 1024) == bytes(512) + b"x" * 512
    file.close()
