"""The fuzzers' targets on their seeds, on what once failed, and on a few thousand
mutations that are the same each time: what fuzzing would find in a second."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.seeds import MUTATIONS_PER_SEED, SEEDS, mutated
from tests.fuzz.targets import TARGETS

FOUND = Path(__file__).parent / "found"


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_their_neighbours(name: str) -> None:
    target, chance = TARGETS[name], random.Random(3)
    seeds = list(SEEDS[name]())
    assert len(seeds) > 5
    for seed in seeds:
        target(seed)
    for seed in chance.choices(seeds, k=150):
        for _ in range(MUTATIONS_PER_SEED):
            target(mutated(seed, chance))


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_once_found(name: str) -> None:
    for path in sorted((FOUND / name).glob("*")):
        TARGETS[name](path.read_bytes())
