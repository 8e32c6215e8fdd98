"""The token bucket against a simulated clock: it holds its rate, whatever is sent."""

from __future__ import annotations

import random

import pytest

from common.replication.pacing import BURST_SECONDS, TokenBucket, frame_bytes
from common.replication.profiles import PROFILES

FRAME = 1 << 20
RATES = sorted({p.rate for p in PROFILES.values() if p.rate} | {8192, 2 << 20, 1 << 30})
SECONDS = 60.0


def sent_in(
    rate: float, sizes: random.Random, *, late: float, seconds: float = SECONDS
) -> float:
    """Send bulk for so long, timers up to `late` seconds late; return bytes a second.

    Heartbeats and control messages go between, unasked.
    """
    now, total, beat = 0.0, 0, 0.0
    bucket = TokenBucket(rate, now)
    most = frame_bytes(rate, FRAME)
    while now < seconds:
        while now >= beat:
            bucket.take(100, now)
            total, beat = total + 100, beat + 2.0
        if wait := bucket.seconds_until_free(now):
            now += wait + late * sizes.random()
            continue
        size = sizes.randrange(1, most + 1)
        bucket.take(size, now)
        total += size
    return total / now


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("late", [0.0, 0.002, 0.04])
def test_it_holds_its_rate_within_five_per_cent(rate: int, late: float) -> None:
    for seed in range(5):
        seconds = SECONDS if rate < FRAME * 100 else 2.0
        reached = sent_in(rate, random.Random(seed), late=late, seconds=seconds)
        assert 0.95 * rate <= reached <= 1.05 * rate, (seed, reached / rate)


def test_it_never_sends_more_than_the_burst_and_one_frame_ahead() -> None:
    rng, rate, now, total = random.Random(1), 1_000_000.0, 0.0, 0
    bucket, most = TokenBucket(rate, now), frame_bytes(rate, FRAME)
    for _ in range(10_000):
        now += rng.choice((0.0, 0.0, 0.001, 0.5)) * rng.random()
        while not bucket.seconds_until_free(now):
            size = rng.randrange(1, most + 1)
            bucket.take(size, now)
            total += size
            assert total <= rate * (now + BURST_SECONDS) + most
    assert total > rate * now * 0.3


def test_control_never_waits_and_bulk_pays_for_it() -> None:
    bucket = TokenBucket(1000.0, 0.0)
    bucket.take(5000, 0.0)
    bucket.take(100, 0.0)  # a heartbeat: taken at once, in debt as it is
    assert bucket.seconds_until_free(0.0) == pytest.approx(5.1)
    assert bucket.seconds_until_free(5.2) == 0.0


def test_idling_is_not_made_up_for() -> None:
    bucket = TokenBucket(1000.0, 0.0)
    assert bucket.seconds_until_free(3600.0) == 0.0
    bucket.take(1050, 3600.0)
    wait = bucket.seconds_until_free(3600.0)
    assert wait == pytest.approx(1.05 - BURST_SECONDS)


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(1000.0, 100.0)
    bucket.take(1000, 100.0)
    assert bucket.seconds_until_free(50.0) == pytest.approx(1.0)
    assert bucket.seconds_until_free(100.0) == pytest.approx(1.0)


def test_another_rate_holds_at_once_and_keeps_what_is_owed_in_time() -> None:
    bucket = TokenBucket(1000.0, 0.0)
    bucket.take(2000, 0.0)
    bucket.set_rate(4000.0, 1.0)
    assert bucket.seconds_until_free(1.0) == pytest.approx(1.0)
    bucket.set_rate(None, 1.0)
    assert bucket.seconds_until_free(1.0) == 0.0
    bucket.take(1 << 40, 1.0)
    assert bucket.seconds_until_free(1.0) == 0.0
    bucket.set_rate(10.0, 1.0)
    assert bucket.seconds_until_free(1.0) == 0.0, "unlimited sending owes nothing"


def test_a_frame_is_at_most_a_quarter_second_of_its_link() -> None:
    assert frame_bytes(None, FRAME) == FRAME
    assert frame_bytes(193_000, FRAME) == 48_250
    assert frame_bytes(100_000_000, FRAME) == FRAME
    assert frame_bytes(1, FRAME) == 1
