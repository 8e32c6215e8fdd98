"""Where files and block devices lie: file systems, disks, and who else has them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
BLOCK = Path("/sys/dev/block")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc(5)); `device` is "MAJOR:MINOR"."""

    device: str
    place: str
    kind: str
    options: frozenset[str]


def all_mounts() -> list[Mount]:
    found = []
    for line in MOUNTS.read_text().splitlines():
        before, _, after = line.partition(" - ")
        words, (kind, _source, *more) = before.split(), after.split(" ")
        options = frozenset(words[5].split(",") + (more[0].split(",") if more else []))
        place = words[4].encode().decode("unicode_escape")
        found.append(Mount(words[2], place, kind, options))
    return found


def mount_of(path: Path) -> Mount | None:
    """Return the mount that a file is in, or its nearest folder that exists."""
    device = nearest(path).stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    text = str(nearest(path).resolve())
    inside = [
        mount
        for mount in all_mounts()
        if text == mount.place or text.startswith(mount.place.rstrip("/") + "/")
    ]
    exact = [mount for mount in inside if mount.device == name]
    return max(exact or inside, key=lambda mount: len(mount.place), default=None)


def nearest(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def device_name(path: Path) -> str | None:
    """Return "MAJOR:MINOR" of a block device, or of the disk that a file lies on."""
    status = nearest(path).stat()
    number = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    return f"{os.major(number)}:{os.minor(number)}" if os.major(number) else None


def users_of(path: Path) -> list[str]:
    """Return who has a block device: where it is mounted, what is built on it."""
    name = device_name(path)
    found = [mount.place for mount in all_mounts() if mount.device == name]
    holders = BLOCK / str(name) / "holders"
    if holders.is_dir():
        found += sorted(f"/dev/{holder.name}" for holder in holders.iterdir())
    return found


def queue_setting(path: Path, setting: str) -> str | None:
    """Return a setting of the disk's queue in sysfs; a partition's is its disk's."""
    name = device_name(path)
    if name is None:
        return None
    folder = (BLOCK / name).resolve()
    for each in (folder, folder.parent):
        if (found := each / "queue" / setting).is_file():
            return found.read_text().strip()
    return None
