"""Small real file systems that a test fills and makes room on again. Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_COMMAND_SECONDS = 60.0
_BLOCK = bytes(4096)


class SmallDisk:
    """A file system; `fill` takes all of its room, `make_room` gives it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as filler:
            descriptor = filler.fileno()
            room = os.statvfs(self.path)
            with contextlib.suppress(OSError):
                size = room.f_bavail * room.f_frsize
                os.posix_fallocate(descriptor, 0, size)
            os.lseek(descriptor, 0, os.SEEK_END)
            with contextlib.suppress(OSError):  # ends when there is none left
                while filler.write(_BLOCK):
                    pass

    def make_room(self) -> None:
        self._filler.unlink()


@contextlib.contextmanager
def small_disk(
    path: Path, size_bytes: int, kind: str = "tmpfs", options: str = ""
) -> Iterator[SmallDisk]:
    """Mount a tmpfs, or an ext4 on a file beside it; unmount it whatever happens."""
    path.mkdir()
    if kind == "tmpfs":
        named = f"size={size_bytes}" + (f",{options}" if options else "")
        _command("mount", "-t", "tmpfs", "-o", named, "small", str(path))
    else:
        image = path.with_suffix(".disk")
        with image.open("wb") as made:
            made.truncate(size_bytes)
        _command(f"mkfs.{kind}", "-q", "-F", "-m", "0", str(image))
        _command("mount", "-o", "loop", str(image), str(path))
    try:
        yield SmallDisk(path)
    finally:
        _command("umount", "-l", str(path))


def remount(disk: SmallDisk, options: str) -> None:
    """Change the options of a tmpfs that is mounted."""
    _command("mount", "-o", f"remount,{options}", str(disk.path))


def _command(*arguments: str) -> None:
    subprocess.run(arguments, check=True, timeout=_COMMAND_SECONDS)
