"""The FlashCopy map against a model: clear, preserving, preserved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.storage.bitmap import Bitmap
from common.storage.flashcopy import FlashCopyMap, Relation

TRACKS = 70

steps = st.lists(
    st.tuples(
        st.sampled_from(("claim", "settle", "cut", "withdraw", "invalidate")),
        st.integers(0, TRACKS - 1),
        st.integers(1, 30),
    ),
    max_size=40,
)


def tracks_of(runs: list[tuple[int, int]]) -> set[int]:
    return {track for first, count in runs for track in range(first, first + count)}


@given(steps)
def test_each_track_is_preserved_once_a_relation_and_before_it_is_preserved(
    actions: list[tuple[str, int, int]],
) -> None:
    flashcopy = FlashCopyMap(TRACKS)
    marked: set[int] = set()
    under_way: list[list[tuple[int, int]]] = []
    settled = [0]
    for action, first, count in actions:
        count = min(count, TRACKS - first)
        wanted = set(range(first, first + count))
        preserving = set().union(*map(tracks_of, under_way))
        assert flashcopy.busy == bool(preserving)
        assert flashcopy.is_preserving(first, count) == bool(wanted & preserving)
        relation = flashcopy.relation
        if action == "claim" and not wanted & preserving:
            runs = flashcopy.claim(first, count, object())
            is_kept = relation is not None and relation.valid
            assert tracks_of(runs) == (wanted - marked if is_kept else set())
            marked |= wanted
            if runs:
                under_way.append(runs)
        elif action == "settle" and under_way:
            before = settled[0]
            flashcopy.when_settled(lambda: settled.__setitem__(0, settled[0] + 1))
            flashcopy.settle(under_way.pop(first % len(under_way)))
            assert settled[0] == before + 1
        elif action == "cut" and not under_way:
            old = flashcopy.establish(Relation(first), Bitmap(TRACKS))
            assert tracks_of(list(old.runs())) == marked
            assert relation is None or relation.withdrawn
            marked = set()
        elif action == "withdraw":
            flashcopy.withdraw()
            assert flashcopy.relation is None
        elif action == "invalidate" and relation is not None:
            relation.invalidate("no room")
            assert not relation.readable
        assert tracks_of(list(flashcopy.bitmap.runs())) == marked


def test_the_first_reason_of_an_invalid_relation_stays() -> None:
    relation = Relation(3)
    relation.invalidate("no room")
    relation.invalidate("no device")
    assert (relation.why_invalid, relation.readable) == ("no room", False)


def test_a_target_is_quiet_only_when_its_last_reader_has_left() -> None:
    relation = Relation(3)
    told: list[str] = []
    relation.when_quiet(lambda: told.append("at once"))
    relation.enter_reader()
    relation.enter_reader()
    relation.when_quiet(lambda: told.append("later"))
    relation.leave_reader()
    assert told == ["at once"]
    relation.leave_reader()
    assert told == ["at once", "later"]
