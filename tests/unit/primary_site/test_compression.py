"""Which level frames are compressed with, by what the last ones took."""

from __future__ import annotations

import random

import pytest

from common.replication.tracks import DeltaRun, RunData
from primary_site.compression import (
    LEVELS,
    PLAIN_FRAMES,
    WINDOW_FRAMES,
    Compression,
    Packed,
)

TRACK = 4096
TEXT = b"a page of a database, and another one; " * (TRACK // 39 + 1)
NOISE = random.Random(2).randbytes(TRACK)
HALF = TEXT[: TRACK // 2] + NOISE[: TRACK // 2]
DIFFERENCE = DeltaRun(0, 1, bytes(TRACK - 1) + b"x", b"b" * 16, b"r" * 16)


class Clock:
    """Time goes by while a frame is compressed, and at no other moment."""

    def __init__(self) -> None:
        self.step = 0.0
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def frames(
    compression: Compression,
    clock: Clock,
    *,
    count: int = WINDOW_FRAMES,
    data: bytes = TEXT[:TRACK],
    pack_seconds: float = 0.001,
    send_seconds: float = 0.002,
) -> list[Packed]:
    """Pack and send frames of one track; return what they were made."""
    found = []
    for _ in range(count):
        clock.step = pack_seconds
        packed = compression.pack([RunData(0, 1, data)])
        clock.step = 0.0
        compression.sent(packed, send_seconds)
        found.append(packed)
    return found


def level(compression: Compression) -> int | None:
    return compression.level(is_whole=True)


def test_a_link_that_waits_for_the_processor_gets_the_lowest_level(
    clock: Clock,
) -> None:
    compression = Compression("auto", clock.monotonic)
    frames(compression, clock, count=200, send_seconds=0.0005)
    assert level(compression) == LEVELS[0]


def test_a_slow_link_gets_the_highest_level_step_by_step(clock: Clock) -> None:
    compression = Compression("auto", clock.monotonic)
    for expected in (*LEVELS[1:], LEVELS[-1]):
        frames(compression, clock, send_seconds=0.1)
        assert level(compression) == expected
    frames(compression, clock, pack_seconds=0.002, send_seconds=0.0001)
    assert level(compression) == LEVELS[-2], "the link is fast again"


def test_a_lower_level_that_would_send_for_as_long_is_not_taken(clock: Clock) -> None:
    """Else it goes to and fro: each level makes the other one look better."""
    compression = Compression("auto", clock.monotonic)
    frames(compression, clock, data=HALF)
    assert level(compression) == LEVELS[0]
    frames(compression, clock, data=HALF, send_seconds=0.0035)
    assert level(compression) == LEVELS[1], "the link has time for it"
    for _ in range(4):
        frames(compression, clock, pack_seconds=0.002, send_seconds=0.0001)
        assert level(compression) == LEVELS[1], "the link would take as long"
    frames(compression, clock, pack_seconds=0.01, send_seconds=0.0001)
    assert level(compression) == LEVELS[0], "now it keeps the link waiting"


def test_a_link_faster_than_the_processor_gets_tracks_as_they_are(
    clock: Clock,
) -> None:
    compression = Compression("auto", clock.monotonic)
    frames(compression, clock, data=HALF, send_seconds=0.0003)
    assert level(compression) is None
    assert compression.level(is_whole=False) == LEVELS[0], "differences shrink more"
    frames(compression, clock, data=HALF, count=PLAIN_FRAMES, send_seconds=0.0006)
    assert level(compression) == LEVELS[0], "tried again"
    frames(compression, clock, data=HALF, send_seconds=0.0005)
    assert level(compression) == LEVELS[0], "the link is not that fast any more"


def test_between_the_two_nothing_changes(clock: Clock) -> None:
    compression = Compression("auto", clock.monotonic)
    frames(compression, clock, send_seconds=0.1)
    before = level(compression)
    frames(compression, clock, count=200)
    assert level(compression) == before


def test_what_does_not_shrink_is_left_alone_and_tried_again(clock: Clock) -> None:
    compression = Compression("auto", clock.monotonic)
    found = frames(
        compression, clock, count=2 * (WINDOW_FRAMES + PLAIN_FRAMES), data=NOISE
    )
    tried = [packed.level is not None for packed in found]
    cycle = [True] * WINDOW_FRAMES + [False] * PLAIN_FRAMES
    assert tried == cycle * 2


def test_differences_are_compressed_among_noise_as_well(clock: Clock) -> None:
    compression = Compression("auto", clock.monotonic)
    frames(compression, clock, data=NOISE)
    assert level(compression) is None
    packed = compression.pack([DIFFERENCE])
    assert packed.level is not None
    assert len(packed.payload) < TRACK // 10


def test_text_that_follows_noise_is_compressed_again(clock: Clock) -> None:
    compression = Compression("auto", clock.monotonic)
    frames(compression, clock, data=NOISE)
    frames(compression, clock, count=PLAIN_FRAMES)
    frames(compression, clock)
    assert level(compression) is not None


@pytest.mark.parametrize(("setting", "expected"), [("off", None), (7, 7)])
def test_a_setting_that_is_not_auto_stays(
    clock: Clock, setting: str | int, expected: int | None
) -> None:
    compression = Compression(setting, clock.monotonic)
    frames(compression, clock, count=200, data=NOISE, send_seconds=1.0)
    assert level(compression) == compression.level(is_whole=False) == expected


def test_what_spares_bytes_at_a_cost_is_for_links_that_are_slow(clock: Clock) -> None:
    compression = Compression("auto", clock.monotonic)
    assert not compression.has_time
    frames(compression, clock, send_seconds=0.1)
    assert compression.has_time
    assert Compression(1, clock.monotonic).has_time
    assert not Compression("off", clock.monotonic).has_time


def test_what_shrinks_much_goes_in_larger_frames(clock: Clock) -> None:
    compression = Compression(3, clock.monotonic)
    assert not compression.gains_by_size
    frames(compression, clock)
    assert compression.gains_by_size
    frames(compression, clock, data=NOISE)
    assert not compression.gains_by_size
    fast = Compression("auto", clock.monotonic)
    frames(fast, clock)
    assert not fast.gains_by_size, "nothing says that the link is slow"
