"""The disk of the crash explorers, and the power cuts it is put through."""

from __future__ import annotations

import random

import pytest

from common.errors import StorageError
from tests.support.crash.disk import OLD, TORN, TRASHED, CrashDisk
from tests.support.crash.power import image, power_cuts, unflushed

PATH = "/state/file"


@pytest.fixture
def disk() -> CrashDisk:
    """One file of four sectors of "a", all of it flushed."""
    disk = CrashDisk()
    disk.make_directory("/state")
    file = disk.open(PATH, create=True)
    file.write(0, b"a" * 2048)
    file.datasync()
    disk.sync_directory("/state")
    return disk


def left(disk: CrashDisk, cut: list[int]) -> bytes:
    found = image(disk, unflushed(disk), cut, random.Random(1))
    return bytes(found.inode(PATH).data)


def cuts(disk: CrashDisk, limit: int) -> list[list[int]]:
    return list(power_cuts(unflushed(disk), random.Random(1), limit))


def test_a_sector_is_old_new_torn_or_garbage_by_itself(disk: CrashDisk) -> None:
    disk.open(PATH).write(512, b"b" * 1024)
    one, other = b"a" * 512, b"b" * 512
    assert left(disk, [OLD, OLD]) == 4 * one
    assert left(disk, [1, OLD]) == one + other + one + one
    assert left(disk, [OLD, 1]) == one + one + other + one
    torn = left(disk, [TORN, OLD])[512:1024]
    assert set(torn) == {ord("a"), ord("b")}
    assert left(disk, [TRASHED, 1])[512:1024] not in (one, other)


def test_any_content_since_the_flush_may_be_what_is_left(disk: CrashDisk) -> None:
    for letter in (b"b", b"c"):
        disk.open(PATH).write(0, letter * 512)
    assert {left(disk, [fate])[:1] for fate in (OLD, 1, 2)} == {b"a", b"b", b"c"}


def test_what_was_flushed_is_on_every_image(disk: CrashDisk) -> None:
    file = disk.open(PATH)
    file.write(0, b"b" * 2048)
    file.datasync()
    assert unflushed(disk) == []
    assert left(disk, []) == b"b" * 2048


def test_a_larger_sector_takes_its_neighbours_along() -> None:
    disk = CrashDisk(4096)
    disk.make_directory("/state")
    file = disk.open(PATH, create=True)
    file.write(0, b"a" * 8192)
    file.datasync()
    disk.sync_directory("/state")
    file.write(512, b"b")
    assert set(left(disk, [TRASHED])[:512]) != {ord("a")}
    assert left(disk, [TRASHED])[4096:] == b"a" * 4096


def test_few_unflushed_sectors_are_explored_in_every_combination(
    disk: CrashDisk,
) -> None:
    disk.open(PATH).write(0, b"b" * 1024)
    found = {tuple(cut) for cut in cuts(disk, 40)}
    fates = (OLD, 1, TORN, TRASHED)
    assert {(one, other) for one in fates for other in fates} <= found


def test_more_are_explored_in_all_subsets_and_many_by_kinds(disk: CrashDisk) -> None:
    disk.open(PATH).write(0, b"b" * 2048)
    assert {(a, b, 1, d) for a in (0, 1) for b in (0, 1) for d in (0, 1)} <= {
        tuple(cut) for cut in cuts(disk, 60)
    }
    disk.open(PATH).write(2048, b"b" * 8192)
    found = cuts(disk, 60)
    count = len(found[0])
    assert count == 4 + 16 + 1  # the size, too
    assert [OLD] * count in found
    assert [1] * count in found
    assert any(cut.count(1) == 1 for cut in found)
    assert any(cut.count(1) == count - 1 for cut in found)
    assert any(TRASHED in cut for cut in found)
    assert len(found) <= 60


def test_names_last_only_when_their_directory_was_synced(disk: CrashDisk) -> None:
    disk.open("/state/new", create=True).datasync()
    disk.rename("/state/new", PATH)
    units = unflushed(disk)
    assert len(units) == 2
    rng = random.Random(1)
    assert bytes(image(disk, units, [OLD, OLD], rng).inode(PATH).data) == b"a" * 2048
    assert image(disk, units, [1, OLD], rng).exists("/state/new")
    assert not image(disk, units, [OLD, 1], rng).inode(PATH).data
    disk.sync_directory("/state")
    assert not unflushed(disk)


def test_images_of_the_same_content_count_once(disk: CrashDisk) -> None:
    file = disk.open(PATH)
    before = disk.digest()
    file.write(0, b"b" * 512)
    units, rng = unflushed(disk), random.Random(1)
    assert image(disk, units, [OLD], rng).digest() == before
    new = image(disk, units, [1], rng).digest()
    assert new != before
    file.datasync()
    assert disk.digest() == new
    file.write(0, b"a" * 512)
    assert image(disk, unflushed(disk), [1], rng).digest() == before
    file.datasync()
    assert disk.digest() == before
    assert disk.after_kill().digest() == before


def test_an_image_can_be_written_without_harm_to_its_disk(disk: CrashDisk) -> None:
    taken = image(disk, [], [], random.Random(1))
    file = taken.open(PATH)
    file.write(0, b"c" * 512)
    file.datasync()
    file.truncate(512)
    assert bytes(disk.inode(PATH).data) == b"a" * 2048
    assert bytes(taken.inode(PATH).data) == b"c" * 512


def test_what_a_failed_flush_lost_stays_lost(disk: CrashDisk) -> None:
    file = disk.open(PATH)
    file.write(0, b"b" * 512)
    disk.inject = lambda operation, _: 5 if operation == "datasync" else None
    with pytest.raises(StorageError):
        file.datasync()
    disk.inject = None
    file.write(512, b"c" * 512)
    file.datasync()
    assert file.read(0, 1024) == b"b" * 512 + b"c" * 512
    assert left(disk, [])[:1024] == b"a" * 512 + b"c" * 512
    file.drop_cache()
    assert file.read(0, 512) == b"a" * 512
