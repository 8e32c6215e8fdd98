"""A journal: what was appended is there after any crash, or the append never ended."""

from __future__ import annotations

import errno
import random

import pytest

from common.errors import CorruptStateError, StorageError
from common.storage.flush_guard import FlushGuard
from common.storage.journal import Journal
from common.storage.journal_files import JournalPlace, index_path
from common.storage.journal_format import (
    BATCH_RECORDS_MAX,
    BLOCK_BYTES,
    JournalHeader,
    OldRun,
    format_batch,
    format_header,
    parse_header,
)
from tests.support.simulated_files import SimulatedFiles

PATH = "/journal/data@1.journal"
TRACK = 4096
HEADER = JournalHeader(
    b"g" * 16, b"v" * 16, b"r" * 16, point_number=1, size_bytes=100 * TRACK - 512,
    track_bytes=TRACK,
)  # fmt: skip


def make_files() -> SimulatedFiles:
    files = SimulatedFiles()
    files.make_directory("/journal")
    return files


def create(files: SimulatedFiles) -> Journal:
    journal = Journal.create(JournalPlace(files, PATH, HEADER, FlushGuard()))
    files.sync_directory("/journal")
    return journal


def recover(files: SimulatedFiles) -> Journal:
    return Journal.recover(JournalPlace(files, PATH, HEADER, FlushGuard()))


def run_of(first: int, count: int, seed: int | None) -> OldRun:
    """Random bytes for an odd seed, one byte for an even one, zeroes for None."""
    if seed is None:
        return OldRun(first, count, None)
    length = HEADER.run_bytes(first, count)
    if seed % 2:
        return OldRun(first, count, random.Random(seed).randbytes(length))
    return OldRun(first, count, bytes([seed]) * length)


def contents(journal: Journal) -> dict[int, bytes | None]:
    """Return {first: data} of everything in the journal."""
    entries = journal.find(0, HEADER.track_count)
    return {entry[0]: journal.read(entry) for entry in entries}


def test_old_content_of_every_kind_is_read_back() -> None:
    journal = create(make_files())
    runs = [run_of(0, 3, 1), run_of(5, 64, 2), run_of(70, 20, None), run_of(99, 1, 3)]
    journal.append(runs[:2])
    journal.append(runs[2:])
    assert contents(journal) == {run.first: run.data for run in runs}
    assert journal.preserved is not None
    assert list(journal.preserved.runs()) == [(0, 3), (5, 64), (70, 20), (99, 1)]


def test_batches_begin_on_blocks_of_their_own() -> None:
    files = make_files()
    journal = create(files)
    for first in range(5):
        before = journal.size_bytes
        assert before % BLOCK_BYTES == 0
        journal.append([run_of(first, 1, first)])
        assert journal.size_bytes > before
    assert files.open(PATH).size() == journal.size_bytes


def test_recovery_finds_what_was_appended_and_goes_on() -> None:
    files = make_files()
    create(files).append([run_of(0, 2, 1), run_of(9, 1, None)])
    journal = recover(files)
    journal.append([run_of(20, 4, 2)])
    again = recover(files)
    assert contents(again) == contents(journal)
    assert sorted(contents(again)) == [0, 9, 20]
    assert again.preserved is not None
    assert again.preserved.count == 7


def test_a_power_cut_at_any_step_loses_at_most_the_append_that_had_not_ended() -> None:
    rng = random.Random(11)
    files = make_files()
    journal = create(files)
    acknowledged: dict[int, bytes | None] = {}
    begun: dict[int, bytes | None] = {}
    images = 0

    def check(_operation: str, _path: str) -> None:
        nonlocal images
        for image in files.crash_images(rng, 30):
            found = contents(recover(image))
            assert found in (acknowledged, begun)
            again = contents(recover(image))
            assert again == found
            images += 1

    files.hook = check
    for step in range(12):
        runs = [
            run_of(8 * step + i, 1 + i, rng.choice((1, 2, None))) for i in (0, 1, 3)
        ]
        begun = acknowledged | {run.first: run.data for run in runs}
        journal.append(runs)
        acknowledged = begun
    assert images > 500


def test_a_torn_tail_of_any_length_is_cut_off() -> None:
    files = make_files()
    journal = create(files)
    journal.append([run_of(0, 2, 1)])
    whole = journal.size_bytes
    journal.append([run_of(10, 2, 1)])
    size = journal.size_bytes
    # Shorter by a block's padding the batch would still be whole.
    for cut in range(whole + 1, size - BLOCK_BYTES, 97):
        image = files.after_kill()
        image.open(PATH).truncate(cut)
        recovered = recover(image)
        assert sorted(contents(recovered)) == [0]
        # For good: the journal may be finished without another append.
        (lost,) = image.crash_images(random.Random(1), 1)
        assert lost.open(PATH).size() == whole


def test_damage_with_whole_batches_behind_it_is_no_torn_tail() -> None:
    files = make_files()
    journal = create(files)
    journal.append([run_of(0, 2, 1)])
    second = journal.size_bytes
    journal.append([run_of(10, 2, 1)])
    journal.append([run_of(20, 2, 1)])
    for damaged in (BLOCK_BYTES, BLOCK_BYTES + 500, second, second + 700):
        image = files.after_kill()
        image.trash(PATH, damaged, b"\xaa\x55\xaa\x55")
        with pytest.raises(CorruptStateError, match=PATH):
            recover(image)


def test_a_batch_of_another_relation_is_never_taken_for_one_of_this() -> None:
    files = make_files()
    journal = create(files)
    other = JournalHeader(b"g" * 16, b"v" * 16, b"o" * 16, 1, 100 * TRACK - 512, TRACK)
    batch, _ = format_batch(other, 0, BLOCK_BYTES, [run_of(0, 1, 1)])
    files.trash(PATH, BLOCK_BYTES, batch)
    assert contents(recover(files)) == {}
    assert journal.size_bytes == BLOCK_BYTES


def test_the_header_has_to_be_the_expected_one() -> None:
    files = make_files()
    create(files)
    assert parse_header(files.open(PATH).read(0, BLOCK_BYTES)) == HEADER
    for field in ("group_id", "volume_id", "relation_id"):
        values = {name: getattr(HEADER, name) for name in HEADER.__slots__}
        other = JournalHeader(**(values | {field: b"?" * 16}))
        with pytest.raises(CorruptStateError, match=PATH):
            Journal.recover(JournalPlace(files, PATH, other, FlushGuard()))


def test_a_flipped_bit_in_the_header_is_noticed() -> None:
    block = format_header(HEADER)
    for offset in range(0, BLOCK_BYTES, 7):
        flipped = bytearray(block)
        flipped[offset] ^= 1
        assert parse_header(bytes(flipped)) is None


def test_an_append_without_room_can_be_repeated() -> None:
    files = make_files()
    journal = create(files)
    journal.append([run_of(0, 1, 1)])
    files.inject = lambda operation, _: errno.ENOSPC if operation == "write" else None
    for _ in range(3):
        with pytest.raises(StorageError) as caught:
            journal.append([run_of(1, 60, 1)])
        assert caught.value.is_out_of_space
        assert sorted(contents(journal)) == [0]
    files.inject = None
    journal.append([run_of(2, 1, 1)])
    assert contents(recover(files)) == contents(journal)
    assert sorted(contents(journal)) == [0, 2]


@pytest.mark.parametrize("appends_more", [False, True])
def test_what_a_failed_append_left_is_cut_before_the_journal_is_finished(
    *, appends_more: bool
) -> None:
    files = make_files()
    journal = create(files)
    journal.append([run_of(0, 1, 1)])
    files.inject = lambda operation, _: errno.ENOSPC if operation == "write" else None
    with pytest.raises(StorageError):
        journal.append([run_of(1, 60, 1)])
    files.inject = None
    if appends_more:
        journal.append([run_of(1, 1, None)])
    journal.finish()
    for image in files.crash_images(random.Random(1), 20):
        finished = Journal(JournalPlace(image, PATH, HEADER, FlushGuard()))
        assert contents(finished) == contents(journal)


def test_nothing_shows_after_a_flush_that_failed() -> None:
    files = make_files()
    guard = FlushGuard()
    journal = Journal.create(JournalPlace(files, PATH, HEADER, guard))
    files.inject = lambda operation, _: errno.EIO if operation == "datasync" else None
    with pytest.raises(StorageError):
        journal.append([run_of(0, 1, 1)])
    files.inject = None
    assert journal.find(0, 1) == []
    with pytest.raises(StorageError):
        journal.append([run_of(0, 1, 1)])
    assert guard.failed is not None


def test_a_record_that_rots_is_reported_when_it_is_read() -> None:
    files = make_files()
    journal = create(files)
    journal.append([run_of(0, 1, 1), run_of(1, 1, 2)])
    (first, second) = journal.find(0, 2)
    files.trash(PATH, first[2] + 200, b"\xff\x00\xff")
    with pytest.raises(CorruptStateError, match=PATH):
        journal.read(first)
    assert journal.read(second) == run_of(1, 1, 2).data


def test_a_sealed_journal_reads_as_it_did_while_open() -> None:
    files = make_files()
    journal = create(files)
    rng = random.Random(5)
    tracks = rng.sample(range(100), 60)
    for first in tracks:
        journal.append([run_of(first, 1, rng.choice((1, 2, None)))])
    before = contents(journal)
    journal.seal()
    assert files.exists(index_path(PATH))
    assert contents(journal) == before
    assert contents(Journal(JournalPlace(files, PATH, HEADER, FlushGuard()))) == before


@pytest.mark.parametrize("offset", [8, 40, BLOCK_BYTES + 100, 2 * BLOCK_BYTES + 3])
def test_a_damaged_index_is_made_again_from_the_journal(offset: int) -> None:
    files = make_files()
    journal = create(files)
    for first in range(50):
        journal.append([run_of(first, 1, first)])
    journal.seal()
    files.trash(index_path(PATH), offset, b"\xde\xad")
    expected = {first: run_of(first, 1, first).data for first in range(50)}
    assert contents(journal) == expected
    assert (
        contents(Journal(JournalPlace(files, PATH, HEADER, FlushGuard()))) == expected
    )


def test_a_finished_journal_that_lost_its_end_is_reported() -> None:
    files = make_files()
    journal = create(files)
    journal.append([run_of(0, 1, 1)])
    files.trash(PATH, BLOCK_BYTES + 300, b"??")
    with pytest.raises(CorruptStateError, match=PATH):
        Journal(JournalPlace(files, PATH, HEADER, FlushGuard())).find(0, 1)


def test_batches_are_bounded() -> None:
    journal = create(make_files())
    zeroes = [OldRun(0, 1, None)] * (BATCH_RECORDS_MAX + 1)
    with pytest.raises(AssertionError):
        journal.append(zeroes)


def test_a_whole_batch_out_of_sequence_is_damage() -> None:
    files = make_files()
    journal = create(files)
    journal.append([run_of(0, 1, 1)])
    batch, _ = format_batch(HEADER, 2, journal.size_bytes, [run_of(1, 1, 1)])
    files.trash(PATH, journal.size_bytes, batch)
    with pytest.raises(CorruptStateError, match=PATH):
        recover(files)


def test_what_a_failed_flush_left_in_memory_is_not_trusted_by_a_restart() -> None:
    """fsyncgate: the next fdatasync says success, and reads show what no disk has."""
    files = make_files()
    journal = create(files)
    files.inject = lambda operation, _path: (
        errno.EIO if operation == "datasync" else None
    )
    with pytest.raises(StorageError):
        journal.append([run_of(3, 2, 1)])
    restarted = files.after_kill()
    recovered = recover(restarted)
    assert contents(recovered) == {}
    recovered.append([run_of(3, 2, 1)])
    (lost, *_) = restarted.crash_images(random.Random(0), 1)
    assert list(contents(recover(lost))) == [3]
