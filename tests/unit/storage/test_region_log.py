"""The region log under power loss: every region called hot is found hot."""

from __future__ import annotations

import random

import pytest

from common.storage import region_log
from common.storage.region_log import (
    BLOCK_BYTES,
    NUMBERS_PER_BLOCK,
    RegionLog,
    format_block,
    parse_block,
)
from tests.support.simulated_files import SimulatedFiles

PATH = "/state/data.regions"


def new_files() -> SimulatedFiles:
    files = SimulatedFiles()
    files.make_directory("/state")
    RegionLog.open(files, PATH).close()
    files.sync_directory("/state")
    return files


def test_what_is_hot_and_cold_is_remembered() -> None:
    files = new_files()
    log = RegionLog.open(files, PATH)
    log.write([1, 2, 1 << 40], [])
    log.write([3], [2, 99])
    assert RegionLog.open(files, PATH).hot == log.hot == {1, 3, 1 << 40}


def test_a_region_both_cooled_and_heated_is_hot() -> None:
    files = new_files()
    log = RegionLog.open(files, PATH)
    log.write([1], [])
    log.write([1, 2], [1])
    assert RegionLog.open(files, PATH).hot == {1, 2}


def test_what_changes_nothing_writes_nothing() -> None:
    files = new_files()
    log = RegionLog.open(files, PATH)
    log.write([1], [])
    before = dict(files.counts)
    log.write([1], [2])
    assert files.counts == before


def test_many_regions_take_many_blocks() -> None:
    files = new_files()
    log = RegionLog.open(files, PATH)
    for start in (0, 5000):
        log.write(range(start, start + 3 * NUMBERS_PER_BLOCK + 1), [])
    log.write([], range(2000))
    expected = set(range(2000, 3 * NUMBERS_PER_BLOCK + 1)) | set(
        range(5000, 5000 + 3 * NUMBERS_PER_BLOCK + 1)
    )
    expected -= set(range(2000))
    assert RegionLog.open(files, PATH).hot == log.hot == expected


def test_a_block_is_refused_with_any_bit_flipped() -> None:
    block = format_block(7, 3, 1, [5, 1 << 50], [9])
    assert parse_block(block) == (7, 3, 1, (5, 1 << 50), (9,))
    rng = random.Random(1)
    for _ in range(300):
        flipped = bytearray(block)
        flipped[rng.randrange(BLOCK_BYTES)] ^= 1 << rng.randrange(8)
        assert parse_block(bytes(flipped)) is None


@pytest.mark.parametrize("seed", range(8))
def test_after_power_loss_the_hot_set_is_the_last_or_the_one_being_written(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region_log, "AREA_BLOCKS", 7)
    rng, files = random.Random(seed), new_files()
    log = RegionLog.open(files, PATH)
    seen: list[set[int]] = []
    problems: list[str] = []

    def crash(operation: str, path: str) -> None:
        for image in files.crash_images(rng, 3):
            found = RegionLog.open(image, PATH).hot
            (again,) = image.crash_images(rng, 1)
            if RegionLog.open(again, PATH).hot != found:
                problems.append("a second recovery found something else")
            # Whatever part of a transaction is there, it began with what cools.
            if not (seen[0] - seen[2] <= found <= seen[0] | seen[1]):
                problems.append(f"{sorted(found)} of {sorted(seen[0])}")

    for _ in range(40):
        heated = set(rng.sample(range(900), rng.choice((1, 3, 600))))
        cooled = set(rng.sample(sorted(log.hot), len(log.hot) // 2)) - heated
        seen = [set(log.hot), heated, cooled]
        files.hook = crash
        log.write(heated, cooled)
        files.hook = None
        assert not problems, problems[0]
        assert log.hot == (seen[0] - cooled) | heated
        for image in files.crash_images(rng, 2):
            assert RegionLog.open(image, PATH).hot == log.hot
        if rng.random() < 0.1:
            files = files.after_kill()
            log = RegionLog.open(files, PATH)
