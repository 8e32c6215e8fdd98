"""What counts of what a sender says of the first copies of its volumes."""

from __future__ import annotations

import pytest

from common.errors import ProtocolError
from common.replication.member_messages import Whole
from remote_site.member_session import SessionMembers, no_volume

CYCLE, OTHER = b"c" * 16, b"o" * 16


def test_a_first_copy_is_whole_by_the_cycle_that_says_so_and_by_no_other() -> None:
    """A point of another cycle would have a volume of which it has a part."""
    members = SessionMembers(1, (2, 0), no_volume)
    assert members.whole(CYCLE) == frozenset()
    members.take(Whole(1, CYCLE, (0,)))
    assert members.whole(CYCLE) == {2}, "by its index here, not by the sender's"
    assert members.whole(OTHER) == frozenset()
    members.take(Whole(1, OTHER, (0, 1)))
    assert members.whole(OTHER) == {0, 2}
    assert members.whole(CYCLE) == frozenset(), "it did not begin"


def test_only_volumes_of_the_session_are_whole() -> None:
    members = SessionMembers(1, (2, 0), no_volume)
    with pytest.raises(ProtocolError, match="WHOLE"):
        members.take(Whole(1, CYCLE, (0, 2)))
    assert members.whole(CYCLE) == frozenset()
