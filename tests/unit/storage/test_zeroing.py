"""Zeroing real files: what becomes a hole, what keeps its room, what is promised."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.storage.files import SystemFile, SystemFiles

SIZE = 1 << 20
MEMORY = Path("/dev/shm")


@pytest.fixture
def memory_file() -> Iterator[SystemFile]:
    """A file on tmpfs, which can punch and does not know ZERO_RANGE."""
    if not os.path.ismount(MEMORY):
        pytest.skip("no tmpfs here")
    path = MEMORY / f"farshore-zeroing-{os.getpid()}"
    file = SystemFiles().open(str(path), create=True)
    try:
        file.write(0, b"x" * SIZE)
        yield file
    finally:
        file.close()
        path.unlink()


def room(file: SystemFile) -> int:
    return os.stat(file.path).st_blocks * 512


def test_punching_gives_room_back_and_a_file_system_that_can_says_so(
    tmp_path: Path,
) -> None:
    file = SystemFiles().open(str(tmp_path / "file"), create=True)
    file.write(0, b"x" * SIZE)
    file.datasync()
    before = room(file)
    file.write_zeroes(0, SIZE // 2, punch=True)
    assert file.read(0, SIZE) == bytes(SIZE // 2) + b"x" * (SIZE // 2)
    # Where it is promised it is done; where it is not, zeroes were written.
    assert (room(file) < before) == file.zeroes_fast(punch=True)
    file.close()


def test_without_punching_the_room_is_kept(tmp_path: Path) -> None:
    file = SystemFiles().open(str(tmp_path / "file"), create=True)
    file.truncate(SIZE)
    file.write_zeroes(0, SIZE, punch=False)
    assert room(file) >= SIZE
    assert file.read(0, SIZE) == bytes(SIZE)
    file.close()


def test_asking_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    file = SystemFiles().open(str(tmp_path / "file"), create=True)
    file.write(0, b"x" * SIZE)
    file.datasync()
    identity, taken = file.identity(), room(file)
    for _ in range(2):
        file.zeroes_fast(punch=True)
        file.zeroes_fast(punch=False)
    assert (file.identity(), room(file)) == (identity, taken)
    assert os.listdir(tmp_path) == ["file"]
    assert file.read(0, SIZE) == b"x" * SIZE
    file.close()


def test_where_a_mode_is_unknown_zeroes_are_written_and_nothing_is_promised(
    memory_file: SystemFile,
) -> None:
    assert memory_file.zeroes_fast(punch=True)
    assert not memory_file.zeroes_fast(punch=False)
    memory_file.write_zeroes(4096, SIZE - 8192, punch=False)
    assert room(memory_file) >= SIZE
    expected = b"x" * 4096 + bytes(SIZE - 8192) + b"x" * 4096
    assert memory_file.read(0, SIZE) == expected
    memory_file.write_zeroes(0, SIZE, punch=True)
    assert room(memory_file) == 0


def test_nothing_is_promised_where_no_trial_can_be_made(tmp_path: Path) -> None:
    """The folder is gone: the same as one where this user may not make a file."""
    (tmp_path / "folder").mkdir()
    file = SystemFiles().open(str(tmp_path / "folder" / "file"), create=True)
    file.truncate(SIZE)
    shutil.rmtree(tmp_path / "folder")
    assert not file.zeroes_fast(punch=True)
    file.write_zeroes(0, SIZE, punch=True)
    file.close()


def test_nothing_is_promised_of_a_file_mounted_from_elsewhere(
    memory_file: SystemFile, tmp_path: Path
) -> None:
    """What the folder's file system can do says nothing of the file's own."""
    place = tmp_path / "file"
    place.touch()
    mounted = subprocess.run(
        ["mount", "--bind", memory_file.path, str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no mount: {mounted.stderr.strip()}")
    try:
        file = SystemFiles().open(str(place))
        assert not file.zeroes_fast(punch=True)
        assert not file.zeroes_fast(punch=False)
        file.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[str]:
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        pytest.skip("needs root and losetup")
    backing = tmp_path / "backing"
    backing.write_bytes(b"x" * SIZE)
    made = subprocess.run(
        ["losetup", "--find", "--show", str(backing)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    path = made.stdout.strip()
    try:
        yield path
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)


@pytest.mark.parametrize("punch", [True, False])
def test_a_block_device_reads_as_zeroes_where_it_was_zeroed(
    loop_device: str, punch: bool
) -> None:
    device = SystemFiles().open(loop_device)
    for offset, length in ((4096, 64 << 10), (100, 1000), (512, 1024)):
        device.write(0, b"x" * SIZE)
        device.write_zeroes(offset, length, punch=punch)
        expected = bytearray(b"x" * SIZE)
        expected[offset : offset + length] = bytes(length)
        assert device.read(0, SIZE) == expected
    number = os.stat(loop_device).st_rdev
    told = Path(
        f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
        "/queue/write_zeroes_max_bytes"
    ).read_text()
    assert device.zeroes_fast(punch=punch) == (int(told) > 0)
    assert device.extents(0, SIZE) == [(SIZE, False)]
    device.close()
