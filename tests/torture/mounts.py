"""File systems on loop devices, in a mount namespace that ends with this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.torture.bench import Bench

COMMAND_SECONDS = 60.0
BUSY_TRIES_MAX = 200
BUSY_SECONDS = 0.02
MIB = 1 << 20
_CLONE_NEWNS = 0x00020000
_MS_REC = 1 << 14
_MS_PRIVATE = 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


class MountError(AssertionError):
    """A command about a file system failed."""


def leave_mount_namespace() -> None:
    """Keep this process's mounts to itself: they end with it, however it ends."""
    if _libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    if _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "mount")


def run(*words: object, data: str | None = None) -> str:
    """Run a command; raise `MountError` with what it said if it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        input=data,
        stdin=None if data is not None else subprocess.DEVNULL,
    )
    if done.returncode:
        raise MountError(f"{words} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class FileSystem:
    """A kind of file system and how a small one is made."""

    name: str
    command: str
    mount_options: str

    def make(self, path: Path) -> None:
        """Make one in a file (or what looks like one), without discarding."""
        if self.name == "ext4":
            options = ["-q", "-F", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0"]
            run(self.command, *options, "-J", "size=4", path)
            return
        options = ["-q", "-f", "-K", "-d", "agcount=1", "-l", "size=8m"]
        try:
            # Below 300 MiB newer versions want to be told that it is for a test.
            run(self.command, "--unsupported", *options, path)
        except MountError:
            run(self.command, *options, path)

    def mount(self, image: Path, folder: Path) -> None:
        """Mount a file by a loop device of its own; recovers the journal."""
        run("mount", "-t", self.name, "-o", f"loop,{self.mount_options}", image, folder)


EXT4 = FileSystem("ext4", "mkfs.ext4", "errors=remount-ro")
# Images of one file system are mounted one after another: all have one UUID.
XFS = FileSystem("xfs", "mkfs.xfs", "nouuid")


def file_systems(bench: Bench) -> list[FileSystem]:
    """Return the kinds that this machine can make, saying which it cannot."""
    return [
        kind
        for kind in (EXT4, XFS)
        if bench.has(kind.command, what=f"all on {kind.name}")
    ]


def unmount(folder: Path) -> None:
    """Unmount; whoever was killed may hold it for a moment longer."""
    for left in reversed(range(BUSY_TRIES_MAX)):
        try:
            run("umount", folder)
        except MountError as error:
            if "busy" not in str(error) or not left:
                raise
        else:
            return
        time.sleep(BUSY_SECONDS)


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Give a folder, in memory if possible: images are made there all the time."""
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else Path("/tmp")
    folder = base / f"farshore-torture-{name}-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def mounted(kind: FileSystem, image: Path, folder: Path) -> Iterator[Path]:
    """Mount until the end of the block; the loop device goes with the mount."""
    folder.mkdir(exist_ok=True)
    kind.mount(image, folder)
    try:
        yield folder
    finally:
        unmount(folder)
