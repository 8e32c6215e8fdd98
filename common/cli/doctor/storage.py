"""Of devices and folders: are they there, of what kind, whose, and is there room?"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from common.cli.display import size_text
from common.cli.doctor.findings import Finding, failed, fine, unknown, warning
from common.cli.doctor.host import Config
from common.cli.doctor.mounts import mount_of, nearest, queue_setting, users_of
from common.errors import FarshoreError
from common.service.config_common import Volume, all_volumes
from common.service.config_primary import PrimaryConfig
from common.storage.files import SystemFiles
from common.storage.geometry import default_track_bytes

FORGETFUL = frozenset({"tmpfs", "ramfs", "overlay"})
SHARED = frozenset({"nfs", "nfs4", "cifs", "9p", "fuse.sshfs"})
AS_DAEMON = "run this as the daemon's user, or as root"
ROOM_SHARE_MIN = 0.1
"""Of the volumes: what hosts overwrite while a cycle drains is seldom more, and a
journal holds more than an hour of most workloads."""

INODES_MIN = 1000


def check_device(
    name: str, device: str, size_bytes: int | None, *, is_served: bool
) -> Iterator[Finding]:
    """Look at one volume's device; `is_served`: a daemon has it open right now."""
    path = Path(device)
    if not path.exists():
        yield _absent(name, path, size_bytes)
        return
    status = path.stat()
    is_block = stat.S_ISBLK(status.st_mode)
    if not is_block and not stat.S_ISREG(status.st_mode):
        yield failed(
            "device",
            name,
            f"{device} is neither a file nor a block device",
            "name another device in the config",
        )
        return
    yield _opened(name, device, size_bytes, is_served=is_served)
    if is_block and not is_served and (users := users_of(path)):
        yield failed(
            "device",
            name,
            f"{device} is in use: {', '.join(users)}",
            "unmount it, or name another: what is written beside farshore is lost",
        )
    yield from _where_it_lies(name, path)
    yield from _disk(name, path)


def _absent(name: str, path: Path, size_bytes: int | None) -> Finding:
    if not path.parent.is_dir():
        return failed(
            "device",
            name,
            f"{path} does not exist, and neither does its folder",
            f"mkdir -p {path.parent}, or mount it, or mend the config",
        )
    if str(path).startswith("/dev/"):
        return failed(
            "device", name, f"{path} does not exist", "create it, or mend the config"
        )
    if size_bytes is None:
        return unknown(
            "device", name, f"{path} is made when it is first needed, by the daemon"
        )
    return fine(
        "device", name, f"{path} will be made, sparse, with {size_text(size_bytes)}"
    )


def _opened(
    name: str, device: str, size_bytes: int | None, *, is_served: bool
) -> Finding:
    """Open it for reading, without a lock: nothing is kept from a daemon."""
    if not is_served and not os.access(device, os.W_OK):
        return unknown(
            "device",
            name,
            f"{device} can't be written by you",
            AS_DAEMON,
        )
    try:
        file = SystemFiles().open(device, read_only=True)
    except FarshoreError as error:
        return failed("device", name, str(error), "mend its mode, or run this as root")
    try:
        size = file.size()
    except FarshoreError as error:
        return failed("device", name, str(error), "see the kernel's log: dmesg")
    finally:
        file.close()
    text = f"{device}, {size_text(size)}"
    if size_bytes is not None and size_bytes != size and not is_served:
        return warning(
            "device",
            name,
            f"{text}, and the config says {size_text(size_bytes)}",
            "leave size out, or give it the device's; grown volumes may differ",
        )
    return fine("device", name, text)


def _where_it_lies(name: str, path: Path) -> Iterator[Finding]:
    mount = mount_of(path)
    if mount is None or stat.S_ISBLK(path.stat().st_mode):
        return
    if mount.kind in FORGETFUL:
        yield warning(
            "device",
            name,
            f"{path} is on {mount.kind}, which a power failure empties or may not keep",
            "put it on a disk",
        )
    elif mount.kind in SHARED:
        yield warning(
            "device",
            name,
            f"{path} is on {mount.kind}: another host may have it, too, and flushes "
            "are that server's to keep",
            "put it on a disk of this host",
        )
    if "nobarrier" in mount.options or "barrier=0" in mount.options:
        yield failed(
            "device",
            name,
            f"{mount.place} is mounted without barriers: a flush flushes nothing",
            f"mount -o remount,barrier=1 {mount.place}",
        )


def _disk(name: str, path: Path) -> Iterator[Finding]:
    cache = queue_setting(path, "write_cache")
    if cache is None:
        return
    spins = queue_setting(path, "rotational") == "1"
    kind = "a spinning disk" if spins else "no spinning disk"
    yield fine("device", name, f"on {kind}, write cache {cache}: flushed when needed")


# -- room --------------------------------------------------------------------------


def check_room(config: Config) -> Iterator[Finding]:
    """Look at the folders that grow: state, FlashCopy targets, journals."""
    is_primary = isinstance(config, PrimaryConfig)
    state = bitmap_bytes(config) * 4 + (1 << 20)
    yield _room("state_dir", config.site.state_directory, state)
    for group in config.groups:
        total = sum(known_size(volume) or 0 for volume in group.volumes)
        wanted = int(total * ROOM_SHARE_MIN)
        if is_primary:
            yield _room(f"{group.name} flashcopy", group.flashcopy.directory, wanted)
        else:
            yield _room(f"{group.name} journal", group.journal.directory, wanted)
    yield from _promised(config)


def _room(subject: str, directory: str, wanted_bytes: int) -> Finding:
    path = nearest(Path(directory))
    if not os.access(path, os.W_OK):
        return unknown(
            "space",
            subject,
            f"{path} can't be written by you",
            AS_DAEMON,
        )
    system = os.statvfs(path)
    free = system.f_bavail * system.f_frsize
    text = f"{directory}: {size_text(free)} free"
    if free < wanted_bytes:
        return warning(
            "space",
            subject,
            f"{text}, {size_text(wanted_bytes)} or more are advised",
            "make room, or name a folder elsewhere; farshore plan says how much",
        )
    if system.f_files and system.f_favail < INODES_MIN:
        return warning(
            "space", subject, f"{text}, but only {system.f_favail} inodes", "make room"
        )
    return fine("space", subject, text)


def _promised(config: Config) -> Iterator[Finding]:
    """Compare what sparse files may still come to take with the room there is."""
    owed: dict[int, tuple[Path, int]] = {}
    for _, volume in all_volumes(config.groups):
        path = Path(volume.device)
        if not path.is_file():
            continue
        status = path.stat()
        missing = max(0, status.st_size - status.st_blocks * 512)
        first, before = owed.get(status.st_dev, (path, 0))
        owed[status.st_dev] = first, before + missing
    for path, missing in owed.values():
        system = os.statvfs(path)
        free = system.f_bavail * system.f_frsize
        subject = str(mount.place if (mount := mount_of(path)) else path.parent)
        text = f"sparse devices may take {size_text(missing)} more, {size_text(free)}"
        if missing > free:
            yield warning(
                "space",
                subject,
                f"{text} are free: hosts, or the remote, would get ENOSPC",
                f"make room below {subject}, or watch it closely",
            )
        else:
            yield fine("space", subject, f"{text} are free")


def known_size(volume: Volume) -> int | None:
    """Return a volume's bytes, by the config or else by its device."""
    size: int | None = getattr(volume, "size_bytes", None)
    path = Path(volume.device)
    if size is None and path.is_file():
        size = path.stat().st_size
    return size or None


def bitmap_bytes(config: Config) -> int:
    """Return the bytes of one bitmap of every volume, so far as sizes are known."""
    total = 0
    for _, volume in all_volumes(config.groups):
        if size := known_size(volume):
            track = getattr(volume, "track_bytes", None) or default_track_bytes(size)
            total += -(-size // (track * 8))
    return total
