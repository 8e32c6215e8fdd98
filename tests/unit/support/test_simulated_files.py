"""The simulated disk loses what a power cut may take, and nothing else."""

from __future__ import annotations

import errno
import random

import pytest

from common.errors import DeviceBusyError, DeviceError, StorageError
from tests.support.simulated_files import SimulatedFiles


def files_with(content: bytes) -> SimulatedFiles:
    files = SimulatedFiles()
    file = files.open("/f", create=True)
    file.write(0, content)
    file.datasync()
    files.sync_directory("/")
    return files


def outcomes(files: SimulatedFiles, count: int = 300) -> set[bytes | None]:
    found: set[bytes | None] = set()
    for image in files.crash_images(random.Random(1), count):
        if not image.exists("/f"):
            found.add(None)
            continue
        file = image.open("/f")
        found.add(file.read(0, file.size()))
    return found


def test_what_is_flushed_stays() -> None:
    files = files_with(b"a" * 1024)
    assert outcomes(files) == {b"a" * 1024}


def test_an_unflushed_sector_is_old_new_torn_or_garbage_alone() -> None:
    files = files_with(b"a" * 1536)
    files.open("/f").write(512, b"b" * 512)
    found = outcomes(files)
    assert b"a" * 1536 in found
    assert b"a" * 512 + b"b" * 512 + b"a" * 512 in found
    torn = {data for data in found if data and data[512:513] == b"b"}
    assert any(b"a" in data[512:1024] for data in torn)
    assert any(data and data[700] not in b"ab" for data in found)
    assert all(data and data[:512] + data[1024:] == b"a" * 1024 for data in found)


def test_any_subset_of_unflushed_sectors_may_be_lost() -> None:
    files = files_with(b"a" * 2048)
    files.open("/f").write(0, b"b" * 2048)
    kept = {
        tuple(data[at : at + 512] == b"b" * 512 for at in range(0, 2048, 512))
        for data in outcomes(files, 2000)
        if data
    }
    assert len(kept) == 16


def test_an_unflushed_size_may_be_lost() -> None:
    files = files_with(b"a" * 512)
    files.open("/f").write(512, b"b" * 512)
    assert {len(data) for data in outcomes(files) if data} == {512, 1024}


def test_a_name_is_lost_unless_its_directory_is_synced() -> None:
    files = SimulatedFiles()
    file = files.open("/f", create=True)
    file.write(0, b"x")
    file.datasync()
    assert outcomes(files) == {None, b"x"}
    files.sync_directory("/")
    assert outcomes(files) == {b"x"}


def test_a_rename_happens_as_a_whole_or_not() -> None:
    files = files_with(b"old")
    new = files.open("/new", create=True)
    new.write(0, b"new")
    new.datasync()
    files.rename("/new", "/f")
    assert outcomes(files) == {b"old", b"new"}


def test_after_a_failed_flush_the_data_is_seen_but_never_durable() -> None:
    files = files_with(b"a" * 512)
    file = files.open("/f")
    file.write(0, b"b" * 512)
    files.inject = lambda operation, _: errno.EIO if operation == "datasync" else None
    with pytest.raises(StorageError):
        file.datasync()
    files.inject = None
    file.datasync()
    assert file.read(0, 512) == b"b" * 512
    assert outcomes(files) == {b"a" * 512}
    file.write(0, b"c" * 512)
    file.datasync()
    assert outcomes(files) == {b"c" * 512}


def test_a_killed_process_leaves_its_page_cache_unflushed() -> None:
    files = files_with(b"a" * 512)
    locked = files.open("/f", lock=True)
    locked.write(0, b"b" * 512)
    other = files.after_kill()
    assert other.open("/f", lock=True).read(0, 1) == b"b"
    assert b"a" * 512 in outcomes(other)
    other.open("/f").datasync()
    assert outcomes(other) == {b"b" * 512}


def test_holes_are_what_was_never_written_or_was_punched() -> None:
    files = SimulatedFiles()
    file = files.open("/f", create=True)
    file.truncate(5 * 4096)
    file.write(4096, b"x" * 8192)
    assert file.extents(0, 5 * 4096) == [(4096, True), (8192, False), (8192, True)]
    file.write_zeroes(4096, 4096, punch=True)
    file.write_zeroes(8192, 4096, punch=False)
    assert file.extents(0, 5 * 4096) == [(8192, True), (4096, False), (8192, True)]
    assert file.read(0, 5 * 4096) == bytes(5 * 4096)


def test_errors_and_locks_are_those_of_the_port() -> None:
    files = files_with(b"abc")
    with pytest.raises(DeviceError):
        files.open("/none")
    with pytest.raises(StorageError):
        files.open("/f").read(1, 3)
    files.open("/f", lock=True)
    with pytest.raises(DeviceBusyError):
        files.open("/f", lock=True)


def test_a_write_without_room_may_have_been_short() -> None:
    files = files_with(b"a" * 1024)
    files.inject = lambda operation, _: errno.ENOSPC if operation == "write" else None
    with pytest.raises(StorageError) as caught:
        files.open("/f").write(0, b"b" * 1024)
    assert caught.value.is_out_of_space
    assert files.open("/f").read(0, 1024) == b"b" * 512 + b"a" * 512
