"""Files that are changed in memory only."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from common.errors import DeviceBusyError, DeviceError, StorageError
from common.storage.files import SystemFiles
from common.storage.record import DurableRecord
from common.storage.unwritten import UnwrittenFiles


@pytest.mark.parametrize("seed", range(3))
def test_changes_are_read_back_and_the_disk_keeps_what_it_had(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "file"
    content = chance.randbytes(50_000)
    path.write_bytes(content)
    model = bytearray(content)
    files = UnwrittenFiles(SystemFiles())
    file = files.open(str(path))
    for _ in range(300):
        size = len(model)
        offset = chance.randrange(size + 1)
        length = chance.randrange(9000)
        match chance.randrange(5):
            case 0:
                data = chance.randbytes(length)
                model[offset : offset + length] = data
                file.write(offset, data)
            case 1:
                model[offset:] = bytes(min(length, 90_000 - offset))
                file.truncate(offset)
                file.truncate(len(model))
            case 2:
                length = min(length, size - offset)
                model[offset : offset + length] = bytes(length)
                file.write_zeroes(offset, length, punch=True)
            case 3:
                file.close()
                file = files.open(str(path), scattered=True)
            case _:
                length = min(length, size - offset)
                assert file.read(offset, length) == model[offset : offset + length]
        assert file.size() == len(model)
    assert file.read(0, len(model)) == model
    with pytest.raises(StorageError):
        file.read(len(model), 1)
    file.close()
    assert path.read_bytes() == content


def test_names_come_and_go_in_memory_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    folder = str(tmp_path)
    files = UnwrittenFiles(SystemFiles())
    files.remove(f"{folder}/a")
    assert files.list(folder) == ["b"]
    with pytest.raises(DeviceError):
        files.open(f"{folder}/a")
    files.open(f"{folder}/c", create=True).write(0, b"new")
    files.rename(f"{folder}/c", f"{folder}/b")
    assert files.list(folder) == ["b"]
    assert files.open(f"{folder}/b").read(0, 3) == b"new"
    files.make_directory(f"{folder}/d")
    assert files.exists(f"{folder}/d")
    assert files.list(f"{folder}/d") == []
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a": "a",
        "b": "b",
    }


def test_a_record_is_stored_and_loaded_without_a_disk(tmp_path: Path) -> None:
    path = f"{tmp_path}/record"
    DurableRecord(path, SystemFiles()).store({"n": 1})
    before = (tmp_path / "record").read_bytes()
    files = UnwrittenFiles(SystemFiles())
    record = DurableRecord(path, files)
    assert record.load() == {"n": 1}
    for number in (2, 3):
        record.store({"n": number})
    DurableRecord(f"{tmp_path}/other", files).store({"n": 9})
    assert DurableRecord(path, files).load() == {"n": 3}
    assert DurableRecord(f"{tmp_path}/other", files).load() == {"n": 9}
    assert (tmp_path / "record").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["record"]


def test_a_lock_keeps_out_whoever_writes(tmp_path: Path) -> None:
    path = f"{tmp_path}/lock"
    real = SystemFiles()
    held = real.open(path, create=True, lock=True)
    files = UnwrittenFiles(real)
    with pytest.raises(DeviceBusyError):
        files.open(path, lock=True)
    held.close()
    mine = files.open(path, lock=True)
    with pytest.raises(DeviceBusyError):
        real.open(path, lock=True)
    mine.close()
    real.open(path, lock=True).close()
