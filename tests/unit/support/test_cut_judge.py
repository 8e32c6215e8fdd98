"""The judge of recovery points: it passes what is right, and can fail."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from tests.support.cut_oracle import (
    SECTOR_BYTES,
    CutJudge,
    CutViolationError,
    History,
    Op,
    Window,
    known_image,
    sequences_of,
    stamp,
)

SECTORS = [64, 24, 7]
IN_FLIGHT_MAX = 6


@dataclass
class Toy:
    """Volumes whose writes take effect at one moment between submit and ack."""

    random: random.Random
    history: History = field(default_factory=History)
    images: list[bytearray] = field(
        default_factory=lambda: [bytearray(n * SECTOR_BYTES) for n in SECTORS]
    )
    waiting: list[Op] = field(default_factory=list)
    applied: list[Op] = field(default_factory=list)

    def submit(
        self, volume: int, first: int, count: int, *, zeroes: bool = False
    ) -> Op:
        op = self.history.submit(0, volume, first, count, zeroes=zeroes)
        self.waiting.append(op)
        return op

    def apply(self, op: Op) -> None:
        self.waiting.remove(op)
        self.applied.append(op)
        put(self.images[op.volume], op)

    def ack(self, op: Op) -> None:
        self.applied.remove(op)
        self.history.ack(op)

    def write(self, volume: int, first: int, count: int, *, zeroes: bool = False) -> Op:
        op = self.submit(volume, first, count, zeroes=zeroes)
        self.apply(op)
        self.ack(op)
        return op

    def step(self) -> None:
        choice = self.random.random()
        if choice < 0.34 and len(self.waiting) + len(self.applied) < IN_FLIGHT_MAX:
            volume = self.random.randrange(len(SECTORS))
            first = self.random.randrange(SECTORS[volume])
            count = self.random.randint(1, min(8, SECTORS[volume] - first))
            self.submit(volume, first, count, zeroes=self.random.random() < 0.3)
        elif choice < 0.67 and self.waiting:
            self.apply(self.random.choice(self.waiting))
        elif self.applied:
            self.ack(self.random.choice(self.applied))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def settle(self) -> None:
        for op in list(self.waiting):
            self.apply(op)
        for op in list(self.applied):
            self.ack(op)

    def cut(self) -> tuple[list[bytes], int]:
        return [bytes(image) for image in self.images], self.history.now()


def put(image: bytearray, op: Op) -> None:
    data = bytes(op.count * SECTOR_BYTES) if op.zeroes else stamp(op)
    start = op.first * SECTOR_BYTES
    image[start : start + len(data)] = data


@pytest.fixture
def toy() -> Toy:
    return Toy(random.Random(7))


def judge() -> CutJudge:
    return CutJudge(SECTORS)


def refused(toy: Toy, images: list[bytes], window: Window, reason: str) -> None:
    with pytest.raises(CutViolationError, match=reason):
        judge().check(images, window, toy.history.ops)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("slack", [0, 9])
def test_images_of_true_cuts_pass(seed: int, slack: int) -> None:
    toy = Toy(random.Random(seed))
    judging = judge()
    for _ in range(20):
        toy.run(25)
        requested = toy.history.now()
        toy.run(slack)
        images, _ = toy.cut()
        toy.run(slack)
        window = Window(requested, toy.history.now())
        toy.run(slack)
        judging.check(images, window, toy.history.ops)


@pytest.mark.parametrize("seed", range(30))
def test_a_volume_of_another_cut_is_noticed(seed: int) -> None:
    toy = Toy(random.Random(seed))
    toy.run(60)
    toy.settle()
    older, at = toy.cut()
    toy.write(0, 3, 4)
    toy.write(1, 3, 4)
    newer, later = toy.cut()
    refused(toy, [older[0], newer[1], newer[2]], Window(at, later), "write order|torn")
    refused(toy, [older[0], newer[1], newer[2]], Window(at, at), "future")
    refused(toy, [newer[0], older[1], newer[2]], Window(later, later), "lacks")


def test_an_image_torn_between_two_cuts_is_noticed(toy: Toy) -> None:
    toy.run(60)
    older, at = toy.cut()
    op = toy.write(0, 8, 40)
    newer, later = toy.cut()
    middle = 24 * SECTOR_BYTES
    mixed = newer[0][:middle] + older[0][middle:]
    refused(toy, [mixed, *newer[1:]], Window(at, later), "torn")
    assert op.count == 40


def test_write_order_across_volumes_is_checked_in_a_wide_window(toy: Toy) -> None:
    _, at = toy.cut()
    first = toy.write(0, 0, 1)
    toy.write(1, 0, 1)
    images, later = toy.cut()
    without_first = bytearray(images[0])
    without_first[:SECTOR_BYTES] = bytes(SECTOR_BYTES)
    refused(toy, [bytes(without_first), *images[1:]], Window(at, later), "write order")
    judge().check(images, Window(at, later), toy.history.ops)
    assert first.sequence == 1


def test_order_is_checked_of_writes_in_flight_at_the_same_cut(toy: Toy) -> None:
    # Wide window: one acked before the other was submitted, neither surely in.
    _, at = toy.cut()
    first = toy.write(0, 5, 1)
    second = toy.submit(2, 0, 7)
    toy.apply(second)
    images, now = toy.cut()
    put_zero = bytearray(images[0])
    put_zero[5 * SECTOR_BYTES : 6 * SECTOR_BYTES] = bytes(SECTOR_BYTES)
    refused(toy, [bytes(put_zero), *images[1:]], Window(at, now), "write order")
    assert first.acked < second.submitted


@pytest.mark.parametrize("zeroes", [False, True])
def test_a_missing_write_is_noticed(toy: Toy, zeroes: bool) -> None:
    toy.write(0, 10, 2)
    older, _ = toy.cut()
    toy.write(0, 10, 2, zeroes=zeroes)
    _, now = toy.cut()
    refused(toy, older, Window(now, now), "lacks a write")


def test_zeroes_where_a_write_was_acknowledged_are_noticed(toy: Toy) -> None:
    toy.write(0, 10, 2, zeroes=True)
    empty, _ = toy.cut()
    toy.write(0, 11, 1)
    _, now = toy.cut()
    refused(toy, empty, Window(now, now), "lacks a write")


def test_a_write_from_the_future_is_noticed(toy: Toy) -> None:
    toy.run(60)
    _, now = toy.cut()
    toy.write(1, 2, 3)
    later, _ = toy.cut()
    refused(toy, later, Window(now, now), "future")


def test_a_torn_write_is_noticed(toy: Toy) -> None:
    toy.write(0, 0, 10)
    op = toy.submit(0, 0, 10)
    images, now = toy.cut()
    image = bytearray(images[0])
    put(image, op)
    half = bytes(image[: 5 * SECTOR_BYTES]) + images[0][5 * SECTOR_BYTES :]
    window = Window(now, now)
    refused(toy, [half, *images[1:]], window, "torn")
    judge().check([bytes(image), *images[1:]], window, toy.history.ops)
    judge().check(images, window, toy.history.ops)
    op.whole = False
    judge().check([half, *images[1:]], window, toy.history.ops)


def test_a_torn_zeroing_is_noticed(toy: Toy) -> None:
    toy.write(0, 0, 10)
    op = toy.submit(0, 0, 10, zeroes=True)
    images, now = toy.cut()
    image = bytearray(images[0])
    image[: 4 * SECTOR_BYTES] = bytes(4 * SECTOR_BYTES)
    refused(toy, [bytes(image), *images[1:]], Window(now, now), "torn")
    assert op.zeroes


@pytest.mark.parametrize("bit", [0, 64, 130, 200 * 8, SECTOR_BYTES * 8 - 1])
def test_one_wrong_bit_is_noticed(toy: Toy, bit: int) -> None:
    toy.write(0, 5, 1)
    images, now = toy.cut()
    image = bytearray(images[0])
    image[5 * SECTOR_BYTES + bit // 8] ^= 1 << bit % 8
    refused(toy, [bytes(image), *images[1:]], Window(now, now), "neither|never made")


def test_one_set_bit_among_zeroes_is_noticed(toy: Toy) -> None:
    images, now = toy.cut()
    image = bytearray(images[0])
    image[777] = 1
    refused(toy, [bytes(image), *images[1:]], Window(now, now), "neither")


def test_a_sector_in_the_wrong_place_is_noticed(toy: Toy) -> None:
    toy.write(0, 5, 2)
    images, now = toy.cut()
    image = bytearray(images[0])
    image[5 * 512 : 6 * 512], image[6 * 512 : 7 * 512] = (
        images[0][6 * 512 : 7 * 512],
        images[0][5 * 512 : 6 * 512],
    )
    refused(toy, [bytes(image), *images[1:]], Window(now, now), "neither")


def test_the_same_sectors_of_another_volume_are_noticed(toy: Toy) -> None:
    toy.write(0, 0, 7)
    images, now = toy.cut()
    swapped = [images[0], images[1], images[0][: 7 * SECTOR_BYTES]]
    refused(toy, swapped, Window(now, now), "neither")


def test_an_older_cut_is_no_newer_one(toy: Toy) -> None:
    judging = judge()
    toy.run(50)
    older, at = toy.cut()
    judging.check(older, Window(at, at), toy.history.ops)
    toy.write(0, 1, 1)
    now = toy.history.now()
    with pytest.raises(CutViolationError, match="lacks"):
        judging.check(older, Window(now, now), toy.history.ops)


@pytest.mark.parametrize("zeroes", [False, True])
@pytest.mark.parametrize("sectors_done", [0, 3, 8])
def test_a_crash_may_lose_any_part_of_what_was_in_flight(
    toy: Toy, zeroes: bool, sectors_done: int
) -> None:
    toy.write(0, 0, 8)
    toy.submit(0, 0, 8, zeroes=zeroes)
    before, _ = toy.cut()
    toy.apply(toy.waiting[0])
    after, _ = toy.cut()
    toy.history.crash()
    split = sectors_done * SECTOR_BYTES
    image = after[0][:split] + before[0][split:]
    now = toy.history.now()
    judging = judge()
    judging.check([image, *after[1:]], Window(now, now), toy.history.ops)
    toy.images[0][:] = image
    toy.write(0, 0, 4)
    images, now = toy.cut()
    judging.check(images, Window(now, now), toy.history.ops)
    with pytest.raises(CutViolationError, match="lacks"):
        judging.check([image, *after[1:]], Window(now, now), toy.history.ops)
    with pytest.raises(CutViolationError, match="lacks"):
        judging.check([after[0], *after[1:]], Window(now, now), toy.history.ops)


def test_a_crash_excuses_no_acknowledged_write(toy: Toy) -> None:
    empty, _ = toy.cut()
    toy.write(0, 0, 8)
    toy.submit(0, 4, 8)
    toy.history.crash()
    now = toy.history.now()
    refused(toy, empty, Window(now, now), "lacks")


def test_what_the_writes_have_made_is_known_where_they_did_not_overlap() -> None:
    toy = Toy(random.Random(1))
    toy.write(0, 0, 4)
    first = toy.submit(0, 2, 2)
    second = toy.submit(0, 3, 2)
    for op in (second, first):
        toy.apply(op)
        toy.ack(op)
    toy.write(0, 10, 2, zeroes=True)
    image, is_known = known_image(SECTORS[0] * SECTOR_BYTES, 0, toy.history.ops)
    assert list(is_known[:6]) == [True, True, True, False, True, True]
    found, known = sequences_of(image, 0), sequences_of(bytes(toy.images[0]), 0)
    assert (found == known)[is_known].all()
    toy.write(0, 3, 1)
    _, is_known = known_image(SECTORS[0] * SECTOR_BYTES, 0, toy.history.ops)
    assert is_known.all()


def test_the_window_is_narrowed_by_the_moment_of_the_cut(toy: Toy) -> None:
    toy.history._moments_ns = [1_000_000, 2_000_500, 2_001_500, 3_000_000]
    cut_time = "1970-01-01T00:00:00.002000Z"
    assert toy.history.window(0, 4, cut_time) == Window(1, 2)
    with pytest.raises(CutViolationError, match="between"):
        toy.history.window(3, 4, cut_time)
