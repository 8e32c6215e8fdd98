"""What a copy holds of a ledger, against what was acknowledged, and when."""

from __future__ import annotations

from demo.ledger import Acknowledged

RUN = Acknowledged({0: (1.0, 2.0, 3.0), 1: (1.5, 2.5), 2: ()})


def test_what_was_acknowledged_before_a_moment_is_counted_by_client() -> None:
    assert RUN.count == 5
    assert RUN.before(1.0) == {0: 0, 1: 0, 2: 0}
    assert RUN.before(2.1) == {0: 2, 1: 1, 2: 0}
    assert RUN.before(9.0) == {0: 3, 1: 2, 2: 0}


def test_the_first_that_is_lost_is_the_oldest_of_any_client_s() -> None:
    assert RUN.first_lost({0: 3, 1: 2}) is None
    assert RUN.first_lost({0: 3, 1: 2, 2: 1}) is None, "more than was acknowledged"
    assert RUN.first_lost({0: 2, 1: 1}) == 2.5
    assert RUN.first_lost({1: 2}) == 1.0
