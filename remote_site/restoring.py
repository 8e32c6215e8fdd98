"""A receiving site's state, looked at without its daemon: for a host that has nothing
but the disks, or a copy of them.

Changes nothing on them: what recovery writes stays in memory. A daemon that has the
state, or a device, is in the way, and told apart by its locks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError, RefusedError
from common.ports import File, Files
from common.service.site_record import LOCK_NAME
from common.storage.flush_guard import FlushGuard
from common.storage.unwritten import UnwrittenFiles
from common.storage.zeroes import is_zero
from remote_site.group_disk import GroupDisk, StoreSettings
from remote_site.recovery_point import PointImage
from remote_site.store_record import RECORD_NAME, StoreRecord
from remote_site.store_state import Point, StoreState

HOLE_BYTES = 64 << 10
"""Of a file that is written, what holds zeroes only becomes a hole in such pieces."""

READ_BYTES = 4 << 20
"""Read from a point at once: bounds memory, and is one piece of progress."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts of a state are that do not lie in its directory.

    `devices` by (group, volume). `journals`: for a group the folder of its journals.
    """

    devices: Mapping[tuple[str, str], str]
    journals: Mapping[str, str]


class RestoredSite:
    """A state directory, locked against daemons until `close`. Everything blocks."""

    def __init__(
        self, directory: str, files: Files, *, is_locked: bool = False
    ) -> None:
        """Raises `RefusedError` for what is no state directory of a remote, and
        `DeviceBusyError` where a daemon has it. `is_locked`: by the caller."""
        self._directory = directory
        self._files = UnwrittenFiles(files)
        self._lock: File | None = None
        groups = f"{directory}/groups"
        found = self._files.list(groups)
        self.names = [
            name for name in found if files.exists(f"{groups}/{name}/{RECORD_NAME}")
        ]
        if not self.names:
            raise RefusedError(
                f"{directory} holds no group that a remote has received: name the "
                "site.state_dir of a farshore-remote, or a copy of it"
            )
        lock = f"{directory}/{LOCK_NAME}"
        if files.exists(lock) and not is_locked:
            self._lock = self._files.open(lock, lock=True)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def state(self, name: str) -> StoreState:
        """Read a group's record; raises `RefusedError` for an unknown group."""
        if name not in self.names:
            known = ", ".join(self.names)
            raise RefusedError(
                f"no group {name!r} in {self._directory}: it has {known}"
            )
        place = f"{self._directory}/groups/{name}"
        record = StoreRecord(self._files, place, FlushGuard())
        state = record.load()
        if state is None:
            raise RefusedError(
                f"{record.path}: an empty record: the group was never received"
            )
        return state

    def open(self, name: str, places: Places) -> GroupDisk:
        """Recover a group in memory; close it when done.

        Raises what `GroupDisk.open` does, and `ConfigError` where it is not said where
        a device is.
        """
        state = self.state(name)
        devices = {}
        for offer, member in zip(state.volumes, state.memberships, strict=True):
            path = places.devices.get((name, offer.name)) or member.device or None
            if path is None:
                raise ConfigError(
                    f"where is the device of {name}/{offer.name}? say --device "
                    f"{name}/{offer.name}=PATH, or name the remote's config by --config"
                )
            devices[offer.name] = path
        settings = StoreSettings(
            group=name,
            state_directory=f"{self._directory}/groups/{name}",
            journal_directory=places.journals.get(
                name, f"{self._directory}/journal/{name}"
            ),
            devices=devices,
        )
        disk = GroupDisk(
            self._files, settings, lambda points: {p.number for p in points}
        )
        disk.open()
        return disk


def _all(points: Sequence[Point]) -> set[int]:
    """Retain whatever the record names."""
    return {point.number for point in points}


def find_point(disk: GroupDisk, number: int | None) -> Point:
    """Return a point, the newest when None; raises `RefusedError`."""
    for point in reversed(disk.points):
        if number in {None, point.number}:
            return point
    known = ", ".join(str(point.number) for point in disk.points)
    what = "no recovery point" if number is None else f"no point {number}"
    raise RefusedError(
        f"group {disk.settings.group} has {what}; it has: {known or 'none yet'}"
    )


def image_of(disk: GroupDisk, volume: str, number: int) -> PointImage:
    """Return a volume as at a point; raises `RefusedError`."""
    for secondary in disk.volumes:
        if secondary.offer.name == volume:
            return PointImage(secondary, number)
    known = ", ".join(secondary.offer.name for secondary in disk.volumes)
    raise RefusedError(f"group {disk.settings.group} has no volume {volume!r}: {known}")


def write_image(image: PointImage, files: Files, target: str) -> Iterator[int]:
    """Write a point to a new file, holes left out; yield the bytes done so far.

    It is whole and on the disk when all were taken; what fails leaves no file. Raises
    `RefusedError` where there is one already, else `StorageError`, or as reading does.
    """
    size = image.geometry.size_bytes
    if files.exists(target):
        raise RefusedError(
            f"{target} exists: nothing is overwritten; name another file"
        )
    with ExitStack() as undo:
        file = files.open(target, create=True)
        undo.callback(files.remove, target)
        undo.callback(file.close)
        file.truncate(size)
        offset = 0
        for length, is_hole in _runs(image, size):
            if not is_hole:
                data = image.read(offset, length)
                for at in range(0, length, HOLE_BYTES):
                    piece = data[at : at + HOLE_BYTES]
                    if not is_zero(piece):
                        file.write(offset + at, piece)
            offset += length
            yield offset
        file.datasync()
        files.sync_directory(str(Path(target).absolute().parent))
        undo.pop_all()
        file.close()


def _runs(image: PointImage, size: int) -> Iterator[tuple[int, bool]]:
    """Yield consecutive (length, is_hole) of a point; data in pieces."""
    offset = 0
    while offset < size:
        for length, flags in image.status(offset, size - offset):
            if flags:
                yield length, True
            else:
                for at in range(0, length, READ_BYTES):
                    yield min(READ_BYTES, length - at), False
            offset += length
