"""Writes that the system cuts short: continued, and the error at their end is told.

A short write is no error: signals cause it, and the last room of a full file system.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from common.errors import StorageError
from common.storage.files import SystemFiles
from tests.support.faulty_disk import FaultyDisk
from tests.support.sites import Pair, VolumeSpec
from tests.support.small_disk import small_disk

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_package("fusermount3", "mount")]

MIB = 1 << 20


@pytest.mark.parametrize("taken_bytes", [1, 511, 4096, 70_001])
def test_a_write_that_is_cut_short_is_continued_to_its_end(
    tmp_path: Path, taken_bytes: int
) -> None:
    data = random.Random(taken_bytes).randbytes(min(200_000, 100 * taken_bytes))
    with FaultyDisk(tmp_path / "disk") as disk:
        disk.written_bytes_max = taken_bytes
        file = SystemFiles().open(str(disk.path / "v.img"), create=True)
        file.write(700, data)
        file.write_zeroes(100, 300, punch=False)
        assert file.read(700, len(data)) == data
        assert file.size() == 700 + len(data)
        file.close()


def test_a_write_that_room_ends_is_told_as_lack_of_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 64 << 10) as disk:
        file = SystemFiles().open(str(disk.path / "v.img"), create=True)
        with pytest.raises(StorageError) as told:
            file.write(0, bytes(100_001))
        assert told.value.errno == errno.ENOSPC
        assert 0 < file.size() < 100_001, "a part of it was written before"
        file.close()


async def test_daemons_work_on_disks_that_write_but_a_little_at_a_time(
    tmp_path: Path,
) -> None:
    with (
        FaultyDisk(tmp_path / "disk") as disk,
        Pair(tmp_path, [VolumeSpec("v", MIB + 1536)]) as pair,
    ):
        disk.written_bytes_max = 5_001
        pair.device("v").symlink_to(disk.path / "v.img")
        pair.secondary("v").symlink_to(disk.path / "v.remote.img")
        await pair.start()
        client = await pair.primary.nbd("g/v")
        data = random.Random(1).randbytes(MIB)
        await client.write(512, data)
        await client.write(100 << 10, data[: 64 << 10], fua=True)
        await client.flush()
        await pair.cut()
        here = await pair.primary.read_whole("g/v")
        assert here[512 : 100 << 10] == data[: (100 << 10) - 512]
        assert await pair.remote.read_whole("g/v") == here
        await client.disconnect()
