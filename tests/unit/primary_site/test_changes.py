"""The bitmaps of a volume against a model of both sites (I4)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import PAGE_BITS, PAGE_BYTES
from common.storage.flashcopy import Relation
from common.storage.geometry import Geometry
from primary_site.changes import (
    VolumeChanges,
    pages_of_tracks,
    pages_with_bits,
    still_to_send,
    unite,
)

TRACKS = 40


class Model:
    """Versions of each track: here, in the secondary volume, in the newest point."""

    def __init__(self) -> None:
        self.changes = VolumeChanges(Geometry(TRACKS * 4096, 4096, 8192))
        self.changes.carry(Bitmap.full(TRACKS))
        self.here = [1] * TRACKS
        self.cut: list[int] | None = None
        self.secondary = [0] * TRACKS
        self.point = [0] * TRACKS

    def mark(self, rng: random.Random) -> None:
        first = rng.randrange(TRACKS)
        count = min(rng.choice((1, 1, 5)), TRACKS - first)
        runs = self.changes.flashcopy.claim(first, count, object())
        self.changes.flashcopy.settle(runs)
        for track in range(first, first + count):
            self.here[track] += 1

    def transfer(self, rng: random.Random) -> None:
        if self.cut is None:
            self.changes.transfer(Relation(1), Bitmap(TRACKS))
            self.cut = list(self.here)

    def settle(self, rng: random.Random) -> None:
        transfer = self.changes.transferred
        if transfer is not None:
            self.changes.settle(*unite(transfer, self.changes.acked))

    def ack(self, rng: random.Random) -> None:
        if self.changes.pprc is None:
            return
        todo = list(still_to_send(self.changes.pprc, self.changes.acked).runs())
        for first, count in todo[: rng.choice((1, 3, TRACKS))]:
            assert self.cut is not None
            self.secondary[first : first + count] = self.cut[first : first + count]
            self.changes.ack(first, count)

    def complete(self, rng: random.Random) -> None:
        changes = self.changes
        if changes.pprc is None or changes.acked.count < changes.pprc.count:
            return
        assert self.secondary == self.cut, "committed, but not the cut"
        self.point, self.cut = list(self.secondary), None
        changes.complete()

    def abandon(self, rng: random.Random) -> None:
        self.changes.abandon()
        self.cut = None

    def forget(self, rng: random.Random) -> None:
        self.changes.forget_acked()

    def withdraw(self, rng: random.Random) -> None:
        self.changes.flashcopy.withdraw()

    def check(self) -> None:
        changes = self.changes
        page = int.from_bytes(changes.changed_page(0), "little")
        acked = int.from_bytes(changes.acked_page(0), "little")
        for track in range(TRACKS):
            is_recorded = bool(page >> track & 1)
            if self.here[track] != self.point[track]:
                assert is_recorded, "a change in no bitmap (I4)"
            if acked >> track & 1:
                # What a restart relies on: the sites are equal there now.
                assert self.here[track] == self.secondary[track]
                assert is_recorded
            if changes.pprc is not None and changes.acked.test(track):
                assert self.cut is not None
                assert self.secondary[track] == self.cut[track]
        differing = sum(a != b for a, b in zip(self.here, self.point, strict=True))
        if self.cut is None:
            assert changes.changed_tracks() >= differing
        assert changes.has_changed() or self.cut is not None or not differing


ACTIONS: list[Any] = [
    Model.mark,
    Model.mark,
    Model.transfer,
    Model.settle,
    Model.ack,
    Model.ack,
    Model.complete,
    Model.abandon,
    Model.forget,
    Model.withdraw,
]


@given(st.lists(st.sampled_from(range(len(ACTIONS))), max_size=60), st.integers())
@settings(deadline=None, max_examples=300)
def test_no_change_is_ever_in_no_bitmap(actions: list[int], seed: int) -> None:
    model, rng = Model(), random.Random(seed)
    for action in actions:
        ACTIONS[action](model, rng)
        model.check()


@pytest.mark.parametrize("seed", range(20))
def test_long_lives_hold_it_too(seed: int) -> None:
    model, rng = Model(), random.Random(seed)
    weights = (6, 6, 3, 3, 3, 3, 3, 1, 1, 1)
    for _ in range(400):
        rng.choices(ACTIONS, weights)[0](model, rng)
        model.check()


def test_a_cut_before_the_last_cycle_is_complete_is_a_mistake() -> None:
    changes = VolumeChanges(Geometry(1 << 20, 4096, 8192))
    changes.transfer(Relation(1), Bitmap(256))
    changes.settle(Bitmap(256), Bitmap(256))
    with pytest.raises(AssertionError, match="staggering"):
        changes.transfer(Relation(2), Bitmap(256))


def test_a_commit_with_tracks_unsent_is_a_mistake() -> None:
    changes = VolumeChanges(Geometry(1 << 20, 4096, 8192))
    changes.carry(Bitmap.full(256))
    transfer = changes.transfer(Relation(1), Bitmap(256))
    changes.settle(*unite(transfer, changes.acked))
    changes.ack(0, 255)
    with pytest.raises(AssertionError, match="unsent"):
        changes.complete()


def test_pages_are_told_from_tracks_and_from_bits() -> None:
    assert list(pages_of_tracks(0, PAGE_BITS)) == [0]
    assert list(pages_of_tracks(PAGE_BITS - 1, 2)) == [0, 1]
    assert list(pages_of_tracks(3 * PAGE_BITS, 1)) == [3]
    bitmap = Bitmap(5 * PAGE_BITS + 7)
    for track in (PAGE_BITS - 1, 2 * PAGE_BITS, 5 * PAGE_BITS + 6):
        bitmap.set(track)
    assert pages_with_bits(bitmap) == {0, 2, 5}
    assert pages_with_bits(Bitmap.full(5 * PAGE_BITS)) == set(range(5))


def test_a_page_holds_the_bits_of_its_own_tracks() -> None:
    tracks = 2 * PAGE_BITS + 5
    changes = VolumeChanges(Geometry(tracks * 4096, 4096, 8192))
    changes.flashcopy.claim(PAGE_BITS + 9, 1, object())
    carried = Bitmap(tracks)
    carried.set(2 * PAGE_BITS + 4)
    changes.carry(carried)
    pages = [int.from_bytes(changes.changed_page(page), "little") for page in range(3)]
    assert pages == [0, 1 << 9, 1 << 4]
    assert len(changes.changed_page(2)) == PAGE_BYTES
