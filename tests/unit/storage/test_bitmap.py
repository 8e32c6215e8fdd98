"""The bitmap against a set of integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.storage.bitmap import Bitmap
from common.storage.extents import bits_of

STEP_BITS = 8 << 16
"""Bits of the 64 KiB steps in which long ranges are handled."""

EDGES = sorted(
    {
        edge + near
        for edge in (8, 64, 512, 2 * (1 << 16), STEP_BITS, 2 * STEP_BITS)
        for near in (-9, -1, 0, 1, 7, 9)
        if edge + near > 0
    }
    | {1, 2, 3}
)


@st.composite
def ranges(draw: st.DrawFn, bits: int) -> tuple[int, int]:
    near = [e for e in (0, *EDGES) if e <= bits]
    place = st.one_of(st.integers(0, bits), st.sampled_from([*near, bits]))
    first, end = sorted((draw(place), draw(place)))
    return first, end - first


@st.composite
def changes(draw: st.DrawFn) -> tuple[int, list[tuple[bool, int, int]]]:
    bits = draw(st.one_of(st.integers(1, 200), st.sampled_from(EDGES)))
    steps = draw(st.lists(st.tuples(st.booleans(), ranges(bits)), max_size=6))
    return bits, [(on, first, count) for on, (first, count) in steps]


Model = npt.NDArray[np.bool_]


def built(bits: int, steps: list[tuple[bool, int, int]]) -> tuple[Bitmap, Model]:
    bitmap, model = Bitmap(bits), np.zeros(bits, bool)
    for on, first, count in steps:
        touched = model[first : first + count]
        if on:
            assert bitmap.set_range(first, count) == int((~touched).sum())
        else:
            assert bitmap.clear_range(first, count) == int(touched.sum())
        touched[:] = on
        assert bitmap.count == int(model.sum())
    return bitmap, model


def runs_of(model: Model) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(model.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b - a)) for a, b in edges.reshape(-1, 2)]


def first_of(found: Model, start: int) -> int:
    later = np.flatnonzero(found[start:])
    return start + int(later[0]) if later.size else len(found)


@given(changes())
@settings(deadline=None)
def test_ranges_set_and_cleared_are_those_of_a_set(
    case: tuple[int, list[tuple[bool, int, int]]],
) -> None:
    bitmap, model = built(*case)
    assert list(bitmap.runs()) == runs_of(model)
    assert int.from_bytes(bitmap.data, "little") >> bitmap.bit_count == 0


@given(changes(), st.data())
@settings(deadline=None)
def test_questions_are_answered_as_by_a_set(
    case: tuple[int, list[tuple[bool, int, int]]], data: st.DataObject
) -> None:
    bitmap, model = built(*case)
    first, count = data.draw(ranges(bitmap.bit_count))
    assert bitmap.count_range(first, count) == int(model[first : first + count].sum())
    assert bitmap.next_set(first) == first_of(model, first)
    assert bitmap.next_clear(first) == first_of(~model, first)
    longest = data.draw(st.integers(40, 70000))
    asked = np.zeros_like(model)
    asked[first : first + count] = model[first : first + count]
    found = np.zeros_like(model)
    for start, size in bitmap.runs(first, first + count, longest=longest):
        assert 0 < size <= longest
        assert not found[start : start + size].any()
        found[start : start + size] = True
    assert (found == asked).all()


@given(changes(), st.data())
@settings(deadline=None)
def test_union_and_difference_are_those_of_sets(
    case: tuple[int, list[tuple[bool, int, int]]], data: st.DataObject
) -> None:
    bits, steps = case
    mine, model = built(bits, steps)
    others = []
    for _ in range(data.draw(st.integers(0, 2))):
        first, count = data.draw(ranges(bits))
        others.append(built(bits, [(True, first, count)]))
    union, together = mine.union_of([bitmap for bitmap, _ in others]), model.copy()
    for other, excluded in others:
        together |= excluded
        mine.subtract(other)
        model &= ~excluded
    assert (list(union.runs()), union.count) == (runs_of(together), together.sum())
    assert (list(mine.runs()), mine.count) == (runs_of(model), model.sum())


@pytest.mark.parametrize("bits", EDGES)
def test_a_full_bitmap_is_one_run(bits: int) -> None:
    full = Bitmap.full(bits)
    assert list(full.runs()) == [(0, bits)]
    assert full.next_clear(0) == bits
    full.clear_range(bits - 1, 1)
    assert full.next_clear(0) == bits - 1
    assert full.count == bits - 1


def test_a_copy_goes_its_own_way() -> None:
    bitmap = Bitmap(100)
    bitmap.set(7)
    copy = bitmap.copy()
    copy.set(8)
    copy.set(8)
    assert (list(bitmap.runs()), bitmap.count) == ([(7, 1)], 1)
    assert (list(copy.runs()), copy.count) == ([(7, 2)], 2)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (63, 65), (64, 64), (70, 9000)])
def test_a_bitmap_of_before_an_extension_knows_nothing_of_the_rest(
    before: int, after: int
) -> None:
    short, long = Bitmap.full(before), Bitmap(after)
    grown = short.extended(after)
    assert grown.count == before
    assert list(grown.runs()) == [(0, before)]
    grown.set(after - 1)
    assert short.count == before, "it goes its own way"
    long.set(after - 1)
    united = long.union_of([short])
    assert list(united.runs()) == list(grown.runs())
    united.subtract(short)
    assert united.count == (after > before)
    assert bits_of(short, 0, after).sum() == before
    assert bits_of(short, after - 1, 1).sum() == (after == before)


def test_far_bits_are_found_across_empty_steps() -> None:
    bits = 5 * STEP_BITS + 13
    for far in (bits - 1, 3 * STEP_BITS, 3 * STEP_BITS - 1, 2 * STEP_BITS + 515):
        bitmap = Bitmap(bits)
        bitmap.set(far)
        for start in (0, 5, 511, 512, 520, STEP_BITS + 3):
            assert bitmap.next_set(start) == far
        other = Bitmap.full(bits)
        other.clear_range(far, 1)
        assert other.next_clear(3) == far
