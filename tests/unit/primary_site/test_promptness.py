"""When a loop may write by itself."""

from __future__ import annotations

from primary_site.promptness import (
    PAUSE_SECONDS_MAX,
    PAUSE_SECONDS_MIN,
    PROMPT_SECONDS,
    PROOF_BATCHES,
    SLOW_COST,
    SLOW_MAX,
    WAITED_SECONDS,
    Promptness,
)

FAST, SLOW = PROMPT_SECONDS / 2, PROMPT_SECONDS * 2
WAITED = WAITED_SECONDS


def proved() -> Promptness:
    promptness = Promptness()
    for _ in range(PROOF_BATCHES):
        promptness.took_in_thread(FAST, 1)
    return promptness


def test_a_device_has_to_prove_itself_in_threads() -> None:
    promptness = Promptness()
    for _ in range(PROOF_BATCHES):
        assert not promptness.is_prompt(0.0)
        promptness.took_in_thread(FAST, 1)
    assert promptness.is_prompt(0.0)


def test_one_slow_batch_begins_the_proof_anew() -> None:
    promptness = Promptness()
    for _ in range(PROOF_BATCHES - 1):
        promptness.took_in_thread(FAST, 1)
    promptness.took_in_thread(SLOW, 1)
    for _ in range(PROOF_BATCHES - 1):
        promptness.took_in_thread(FAST, 1)
    assert not promptness.is_prompt(0.0)
    promptness.took_in_thread(FAST, 1)
    assert promptness.is_prompt(0.0)


def test_a_device_that_is_always_slow_never_meets_the_loop() -> None:
    promptness = Promptness()
    for _ in range(10 * PROOF_BATCHES):
        promptness.took_in_thread(SLOW, 1)
        assert not promptness.is_prompt(1e6)


def test_prompt_writes_change_nothing() -> None:
    promptness = proved()
    for turn in range(1000):
        promptness.took_on_loop(FAST, turn / 1000)
    assert promptness.is_prompt(1.0)


def test_a_wait_on_the_loop_asks_for_a_new_proof_and_a_pause() -> None:
    promptness = proved()
    promptness.took_on_loop(WAITED, 10.0)
    assert not promptness.is_prompt(10.0)
    assert not promptness.is_prompt(1e6)
    for _ in range(PROOF_BATCHES):
        promptness.took_in_thread(FAST, 1)
    assert not promptness.is_prompt(10.0 + PAUSE_SECONDS_MIN - 0.01)
    assert promptness.is_prompt(10.0 + PAUSE_SECONDS_MIN)


def test_a_long_batch_of_a_thread_is_judged_by_its_writes() -> None:
    promptness = Promptness()
    for _ in range(PROOF_BATCHES):
        promptness.took_in_thread(SLOW, 3)
    assert promptness.is_prompt(0.0)
    promptness.took_in_thread(3 * SLOW, 3)
    assert not promptness.is_prompt(0.0)


def test_batches_that_the_loop_broke_off_are_forgiven_if_they_are_few() -> None:
    promptness = proved()
    for _ in range(10):
        promptness.took_on_loop(SLOW, 10.0)
        for _ in range(SLOW_COST):
            promptness.took_on_loop(FAST, 10.0)
    for _ in range(SLOW_MAX // SLOW_COST - 1):
        promptness.took_on_loop(SLOW, 10.0)
    assert promptness.is_prompt(10.0)
    promptness.took_on_loop(SLOW, 10.0)
    assert not promptness.is_prompt(10.0)


def waits(count: int) -> list[float]:
    """Return how long each pause is when the loop waits as soon as it may."""
    promptness, now, pauses = proved(), 100.0, []
    for _ in range(count):
        promptness.took_on_loop(WAITED, now)
        for _ in range(PROOF_BATCHES):
            promptness.took_in_thread(FAST, 1)
        began = now
        while not promptness.is_prompt(now):
            now += PAUSE_SECONDS_MIN
        pauses.append(now - began)
    return pauses


def test_waits_that_go_on_come_ever_more_seldom() -> None:
    pauses = waits(14)
    assert pauses[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert pauses[-1] == pauses[-2] == PAUSE_SECONDS_MAX


def test_a_device_that_did_well_for_long_is_forgiven() -> None:
    promptness = proved()
    for now in (100.0, 200.0):
        promptness.took_on_loop(WAITED, now)
        for _ in range(PROOF_BATCHES):
            promptness.took_in_thread(FAST, 1)
        assert promptness.is_prompt(now + PAUSE_SECONDS_MIN)
