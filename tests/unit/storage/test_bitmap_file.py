"""Durable bitmap pages under power loss: old or new, never another page's bits."""

from __future__ import annotations

import errno
import random

import pytest

from common.errors import StorageError
from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import (
    PAGE_BITS,
    PAGE_BYTES,
    SLOT_BYTES,
    BitmapFile,
    format_slot,
    page_of,
    parse_slot,
)
from tests.support.simulated_files import SimulatedFiles

PATH = "/state/data.changed"
PAGES = 4
BITS = 3 * PAGE_BITS + 100


def opened(files: SimulatedFiles) -> BitmapFile:
    return BitmapFile.open(files, PATH, BITS)


def new_files() -> SimulatedFiles:
    files = SimulatedFiles()
    files.make_directory("/state")
    opened(files).close()
    files.sync_directory("/state")
    return files


def page_bits(bitmap: Bitmap, page: int) -> bytes:
    data = bytes(bitmap.data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
    return data.ljust(PAGE_BYTES, b"\0")


def random_page(rng: random.Random, page: int) -> bytes:
    bits = rng.randbytes(PAGE_BYTES)
    room = min(PAGE_BITS, BITS - page * PAGE_BITS)
    return (int.from_bytes(bits, "little") & ((1 << room) - 1)).to_bytes(
        PAGE_BYTES, "little"
    )


def test_a_new_file_is_clear() -> None:
    assert opened(new_files()).load(when_damaged=True).count == 0


def test_what_was_saved_is_loaded_and_counted() -> None:
    files, rng = new_files(), random.Random(1)
    saved = {page: random_page(rng, page) for page in range(PAGES)}
    file = opened(files)
    file.save({0: random_page(rng, 0)})
    file.save(saved)
    bitmap = opened(files).load(when_damaged=True)
    assert {page: page_bits(bitmap, page) for page in range(PAGES)} == saved
    assert bitmap.count == sum(int.from_bytes(b).bit_count() for b in saved.values())


def test_an_extended_file_keeps_its_pages_and_has_room_for_the_new_ones() -> None:
    files, rng = new_files(), random.Random(3)
    saved = {page: random_page(rng, page) for page in range(PAGES)}
    file = opened(files)
    file.save(saved)
    file.datasync()
    more = PAGES * PAGE_BITS + 7
    file.extend(more)
    for image in files.crash_images(random.Random(4), 3):
        assert image.open(PATH).size() == 2 * (PAGES + 1) * SLOT_BYTES
        again = BitmapFile.open(image, PATH, more)
        loaded = again.load(when_damaged=True)
        assert [page_bits(loaded, page) for page in range(PAGES)] == list(
            saved.values()
        )
        assert loaded.next_set(PAGES * PAGE_BITS) == loaded.bit_count == more
        # What was saved before the crash goes on from its sequence, old page or new.
        again.save({page: page_bits(Bitmap.full(more), page) for page in (0, PAGES)})
        after = again.load(when_damaged=False)
        assert after.count_range(0, PAGE_BITS) == PAGE_BITS
        assert after.count_range(PAGES * PAGE_BITS, 7) == 7


def test_a_file_that_finds_no_room_to_extend_works_on_as_it_was() -> None:
    files = new_files()
    file = opened(files)
    files.inject = lambda operation, _: errno.ENOSPC * (operation == "allocate") or None
    with pytest.raises(StorageError):
        file.extend(PAGES * PAGE_BITS + 7)
    files.inject = None
    file.save({0: b"\1"})
    assert file.load(when_damaged=False).count == 1


def test_bits_under_another_tag_count_as_clear() -> None:
    files, rng = new_files(), random.Random(2)
    file = opened(files)
    file.save({0: random_page(rng, 0), 2: random_page(rng, 2)}, b"a" * 16)
    kept = random_page(rng, 2)
    file.save({2: kept}, b"b" * 16)
    bitmap = opened(files).load(b"b" * 16, when_damaged=False)
    assert (page_bits(bitmap, 0), page_bits(bitmap, 2)) == (bytes(PAGE_BYTES), kept)


@pytest.mark.parametrize("when_damaged", [True, False])
def test_a_page_damaged_in_both_slots_reads_as_the_answer_that_loses_nothing(
    when_damaged: bool,
) -> None:
    files, rng = new_files(), random.Random(3)
    file = opened(files)
    for _ in range(2):
        file.save({page: random_page(rng, page) for page in range(PAGES)})
    kept = page_bits(opened(files).load(when_damaged=True), 1)
    files.trash(PATH, 3 * 2 * SLOT_BYTES + 100, b"garbage")
    files.trash(PATH, 3 * 2 * SLOT_BYTES + SLOT_BYTES + 100, b"garbage")
    bitmap = opened(files).load(when_damaged=when_damaged)
    room = BITS - 3 * PAGE_BITS
    assert bitmap.count_range(3 * PAGE_BITS, room) == (room if when_damaged else 0)
    assert page_bits(bitmap, 1) == kept


def test_a_slot_is_refused_for_another_page_and_with_any_bit_flipped() -> None:
    slot = format_slot(5, 9, b"t" * 16, b"\x01\x02", 7)
    bits = b"\x01\x02".ljust(PAGE_BYTES, b"\0")
    assert parse_slot(5, slot) == (9, b"t" * 16, 7, bits)
    assert parse_slot(4, slot) is None
    rng = random.Random(4)
    for _ in range(300):
        flipped = bytearray(slot)
        flipped[rng.randrange(SLOT_BYTES)] ^= 1 << rng.randrange(8)
        assert parse_slot(5, bytes(flipped)) is None


def test_tracks_belong_to_the_page_that_holds_them() -> None:
    assert [page_of(t) for t in (0, PAGE_BITS - 1, PAGE_BITS)] == [0, 0, 1]


@pytest.mark.parametrize("seed", range(12))
def test_after_power_loss_each_page_is_as_last_flushed_or_as_saved_since(
    seed: int,
) -> None:
    rng, files = random.Random(seed), new_files()
    file = opened(files)
    file.load(when_damaged=True)
    allowed = {page: [bytes(PAGE_BYTES)] for page in range(PAGES)}
    for _ in range(12):
        chosen = rng.sample(range(PAGES), rng.randrange(1, PAGES + 1))
        pages = {page: random_page(rng, page) for page in chosen}
        for page, bits in pages.items():
            allowed[page].append(bits)
        file.save(pages)
        for image in files.crash_images(rng, 6):
            recovered = opened(image).load(when_damaged=True)
            found = [page_bits(recovered, page) for page in range(PAGES)]
            assert all(bits in allowed[page] for page, bits in enumerate(found))
            for again in image.crash_images(rng, 2):
                twice = opened(again).load(when_damaged=True)
                assert [page_bits(twice, page) for page in range(PAGES)] == found
        file.datasync()
        allowed = {page: versions[-1:] for page, versions in allowed.items()}
        if rng.random() < 0.3:  # killed: the next process goes on from the slots
            files = files.after_kill()
            file = opened(files)
            file.load(when_damaged=True)
