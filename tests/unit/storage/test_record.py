"""The durable record: old or new after any crash, never neither."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from common.errors import CorruptStateError, StateMismatchError, StorageError
from common.storage.files import SystemFiles
from common.storage.record import SLOT_BYTES, DurableRecord, format_slot
from tests.support.simulated_files import SimulatedFiles

PATH = "/state/record"


def make_files() -> SimulatedFiles:
    files = SimulatedFiles()
    files.make_directory("/state")
    return files


def stored(*values: int) -> SimulatedFiles:
    files = make_files()
    record = DurableRecord(PATH, files)
    for value in values:
        record.store({"value": value})
    return files


def test_nothing_stored_is_none() -> None:
    files = make_files()
    assert DurableRecord(PATH, files).load() is None
    files.open(PATH, create=True).close()
    assert DurableRecord(PATH, files).load() is None


def test_the_last_store_is_loaded() -> None:
    for count in range(1, 5):
        assert DurableRecord(PATH, stored(*range(count))).load() == {"value": count - 1}


def test_it_works_on_a_real_file_system(tmp_path: Path) -> None:
    path = str(tmp_path / "record")
    for value in range(3):
        DurableRecord(path, SystemFiles()).store({"value": value, "id": b"\xff" * 16})
    found = DurableRecord(path, SystemFiles()).load()
    assert found == {"value": 2, "id": b"\xff" * 16}
    assert [each.name for each in tmp_path.iterdir()] == ["record"]


def test_a_store_never_touches_the_slot_of_the_newest_record() -> None:
    files = stored(1, 2, 3)
    files.trash(PATH, 0 if 4 % 2 == 0 else SLOT_BYTES, b"x" * SLOT_BYTES)
    assert DurableRecord(PATH, files).load() == {"value": 3}


def test_with_the_newest_slot_trashed_the_one_before_is_loaded() -> None:
    files = stored(1, 2, 3)
    files.trash(PATH, SLOT_BYTES, b"x" * SLOT_BYTES)
    assert DurableRecord(PATH, files).load() == {"value": 2}


def test_two_bad_slots_are_an_error_that_names_the_file() -> None:
    files = stored(1, 2)
    files.trash(PATH, 30, b"?")
    files.trash(PATH, SLOT_BYTES + 30, b"?")
    with pytest.raises(CorruptStateError, match=PATH):
        DurableRecord(PATH, files).load()


def test_a_flipped_bit_anywhere_in_the_newest_slot_is_noticed() -> None:
    slot = format_slot(2, {"value": 2})
    used = len(slot.rstrip(b"\0"))
    for offset in range(used):
        files = stored(1, 2)
        files.trash(PATH, offset, bytes([slot[offset] ^ 0x10]))
        assert DurableRecord(PATH, files).load() == {"value": 1}, offset


def test_a_power_cut_at_any_step_leaves_the_old_or_the_new_record() -> None:
    rng = random.Random(7)
    files = make_files()
    record = DurableRecord(PATH, files)
    allowed: list[dict[str, int] | None] = [None]
    images = 0

    def check(_operation: str, _path: str) -> None:
        nonlocal images
        for image in files.crash_images(rng, 40):
            assert DurableRecord(PATH, image).load() in allowed
            images += 1

    files.hook = check
    for value in range(6):
        allowed.append({"value": value, "padding": "p" * 9000})
        record.store({"value": value, "padding": "p" * 9000})
        allowed = allowed[-1:]
        check("end", "")
    assert images > 500


def test_what_a_killed_process_stored_outlives_a_power_cut_once_loaded() -> None:
    rng = random.Random(7)
    files = stored(1)
    files.lies = lambda operation, _path: operation == "datasync"
    DurableRecord(PATH, files).store({"value": 2})  # in the page cache only
    files = files.after_kill()
    files.lies = None
    assert DurableRecord(PATH, files).load() == {"value": 2}
    for image in files.crash_images(rng, 10):
        assert DurableRecord(PATH, image).load() == {"value": 2}


def test_a_name_that_a_killed_process_gave_outlives_a_power_cut_once_loaded() -> None:
    """Else every later store would be durable under a name that is not."""
    rng = random.Random(7)
    files = make_files()
    files.lies = lambda operation, _path: operation == "sync_directory"
    DurableRecord(PATH, files).store({"value": 1})  # its name is in memory only
    files = files.after_kill()
    files.lies = None
    record = DurableRecord(PATH, files)
    assert record.load() == {"value": 1}
    record.store({"value": 2})
    for image in files.crash_images(rng, 10):
        assert DurableRecord(PATH, image).load() == {"value": 2}


def test_nothing_is_stored_after_a_failed_flush() -> None:
    files = stored(1)
    record = DurableRecord(PATH, files)
    record.load()
    files.inject = lambda operation, _: errno.EIO if operation == "datasync" else None
    with pytest.raises(StorageError):
        record.store({"value": 2})
    files.inject = None
    with pytest.raises(StorageError):
        record.store({"value": 3})
    assert record.failed is not None


def test_a_first_store_without_room_can_be_repeated() -> None:
    files = make_files()
    record = DurableRecord(PATH, files)
    files.inject = lambda operation, _: errno.ENOSPC if operation == "write" else None
    with pytest.raises(StorageError):
        record.store({"value": 1})
    assert DurableRecord(PATH, files).load() is None
    files.inject = None
    record.store({"value": 1})
    assert DurableRecord(PATH, files).load() == {"value": 1}


def test_a_record_of_another_format_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("common.storage.record.FORMAT_VERSION", 9)
    files = stored(1)
    monkeypatch.undo()
    with pytest.raises(StateMismatchError, match="record format 9"):
        DurableRecord(PATH, files).load()
