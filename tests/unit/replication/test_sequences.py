"""Numbers within pairs: as a plain reading has it, at a price that is one's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.replication.sequences import covered

small = st.integers(0, 30)
FAR = (1 << 63) - 1


@given(st.sets(small), st.lists(st.tuples(small, small), max_size=8))
def test_those_within_any_pair_are_found_once_in_order(
    numbers: set[int], pairs: list[tuple[int, int]]
) -> None:
    plain = [n for n in sorted(numbers) if any(a <= n <= b for a, b in pairs)]
    assert covered(numbers, pairs) == plain


def test_what_lies_between_the_ends_of_a_pair_costs_nothing() -> None:
    """A loop over it would last for ever."""
    assert covered([3, 1 << 62], [(0, FAR)] * 4096) == [3, 1 << 62]
    assert covered([], [(0, FAR)]) == []
