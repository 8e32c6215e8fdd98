"""Versions of a volume: a workload on ext4, frozen and copied at each cut."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard

from benchmarks.wan_workloads import BLOCK_BYTES, Workload

ZSTD_LEVEL = 3
"""The default of `zstd` and of `rsync -z`: everybody gets the same."""

_CLONE_NEWNS = 0x00020000
_MS_REC = 1 << 14
_MS_PRIVATE = 1 << 18


@dataclass(frozen=True)
class Versions:
    """Images as at each cut, and the bytes of the blocks that changed between them."""

    images: list[Path]
    changed_bytes: list[int]


def leave_mount_namespace() -> None:
    """Keep this process's mounts to itself: they end with it, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(
            ctypes.get_errno(), "unshare: the benchmark mounts, run it as root"
        )
    if libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "mount")


def record(workload: Workload, where: Path, steps: int) -> Versions:
    """Play a workload on ext4; return the image as at its start and after each step."""
    where.mkdir()
    live, folder = where / "live.img", where / "mnt"
    folder.mkdir()
    _sparse(live, workload.size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-b", str(BLOCK_BYTES), "-m", "0", str(live))
    images = []

    def keep(number: int) -> None:
        image = where / f"v{number}.img"
        _run("fsfreeze", "--freeze", str(folder))
        try:
            _run("cp", "--sparse=always", str(live), str(image))
        finally:
            _run("fsfreeze", "--unfreeze", str(folder))
        images.append(image)

    with _mounted("ext4", live, folder), workload.at_work(folder):
        workload.prepare(folder)
        keep(0)
        for number in range(1, steps + 1):
            workload.step(folder, number)
            keep(number)
    live.unlink()
    pairs = itertools.pairwise(images)
    return Versions(images, [len(changed(*pair)) * BLOCK_BYTES for pair in pairs])


def btrfs_send(workload: Workload, where: Path, steps: int) -> list[int]:
    """Play a workload on btrfs; return what `btrfs send -p | zstd` made of it."""
    where.mkdir()
    image, folder = where / "btrfs.img", where / "mnt"
    folder.mkdir()
    _sparse(image, 4 * workload.size_bytes)
    _run("mkfs.btrfs", "-q", str(image))
    sizes = []
    with _mounted("btrfs", image, folder):
        live = folder / "live"
        _run("btrfs", "-q", "subvolume", "create", str(live))

        def snapshot(number: int) -> Path:
            taken = folder / f"s{number}"
            _run("sync", "-f", str(live))
            _run("btrfs", "-q", "subvolume", "snapshot", "-r", str(live), str(taken))
            return taken

        with workload.at_work(live):
            workload.prepare(live)
            before = snapshot(0)
            for number in range(1, steps + 1):
                workload.step(live, number)
                after = snapshot(number)
                sizes.append(_sent_bytes(before, after))
                before = after
    return sizes


def changed(before: Path, after: Path) -> list[int]:
    """Return the numbers of the blocks that differ between two images."""
    old = np.memmap(before, np.uint64, "r").reshape(-1, BLOCK_BYTES // 8)
    new = np.memmap(after, np.uint64, "r").reshape(-1, BLOCK_BYTES // 8)
    found: list[int] = []
    step = 4096
    for first in range(0, len(old), step):
        part = slice(first, first + step)
        differs = (old[part] != new[part]).any(axis=1)
        found += (np.flatnonzero(differs) + first).tolist()
    return found


def _sent_bytes(before: Path, after: Path) -> int:
    command = ["btrfs", "-q", "send", "-p", str(before), str(after)]
    counted = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sending:
        assert sending.stdout is not None
        packing = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        for chunk in packing.read_to_iter(sending.stdout):
            counted += len(chunk)
    if sending.returncode:
        raise RuntimeError(f"btrfs send ended with {sending.returncode}")
    return counted


@contextmanager
def _mounted(kind: str, image: Path, folder: Path) -> Iterator[None]:
    _run("mount", "-t", kind, "-o", "loop", str(image), str(folder))
    try:
        yield
    finally:
        _run("umount", str(folder))


def _sparse(path: Path, size_bytes: int) -> None:
    with path.open("wb") as made:
        os.truncate(made.fileno(), size_bytes)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def why_no_btrfs(where: Path) -> str:
    """Return why there can be no `btrfs send` here; empty if there can."""
    if shutil.which("mkfs.btrfs") is None or shutil.which("btrfs") is None:
        return "btrfs-progs is not installed"
    image, folder = where / "try.img", where / "try"
    folder.mkdir()
    _sparse(image, 128 << 20)
    try:
        _run("mkfs.btrfs", "-q", str(image))
        with _mounted("btrfs", image, folder):
            pass
    except RuntimeError as error:
        return f"this kernel mounts no btrfs ({error})"
    finally:
        image.unlink()
        folder.rmdir()
    return ""
