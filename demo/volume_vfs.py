"""SQLite on volumes: its files are NBD exports, without mounts, FUSE or root.

SQLite reaches its files through a VFS. This one gives it two: the database is one
volume, its rollback journal another of the same consistency group. A volume has a
fixed size, so that

- the database's length is what its own header says (page size times page count),
  and grows in memory until SQLite writes that header;
- the journal is as long as its volume, always there, and "cold" while its first
  byte is zero, which is how SQLite itself leaves it in `journal_mode = PERSIST`.

xSync is an NBD FLUSH, so SQLite's promises rest on the daemon's and on nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import apsw

HEADER_BYTES: Final = 100
"""SQLite's database header (https://sqlite.org/fileformat.html, 1.3)."""

HEADER_MAGIC: Final = b"SQLite format 3\0"

SECTOR_BYTES: Final = 4096
"""What SQLite takes as the unit that a crash can tear."""

DEVICE_PROMISES: Final = 0
"""No atomic writes, no order between writes: SQLite must flush for each."""


class Volume(Protocol):
    """What a file is made of: an `NbdExport`, or a test's memory."""

    name: str
    size_bytes: int

    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def flush(self) -> None: ...


def database_bytes(header: bytes) -> int:
    """Return the length that a database's header tells; 0 where there is none.

    Offset 16 holds the page size (1 means 65536), offset 28 the number of pages.
    """
    if header[: len(HEADER_MAGIC)] != HEADER_MAGIC:
        return 0
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    return page_bytes * int.from_bytes(header[28:32], "big")


class VolumeFile:
    """What SQLite sees as an open file."""

    def __init__(self, export: Volume, *, is_journal: bool) -> None:
        self._export = export
        self._is_journal = is_journal
        if is_journal:
            self._length_bytes = export.size_bytes
        else:
            self._length_bytes = database_bytes(export.read(0, HEADER_BYTES))

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name
        stop = min(offset + amount, self._length_bytes)
        return self._export.read(offset, stop - offset) if stop > offset else b""

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if offset + len(data) > self._export.size_bytes:
            raise apsw.FullError(f"volume {self._export.name} is full")
        self._export.write(offset, bytes(data))
        self._length_bytes = max(self._length_bytes, offset + len(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        if self._is_journal:
            assert size == 0, "SQLite empties a journal, or leaves it"
            self._export.write(0, bytes(SECTOR_BYTES))
        else:
            self._length_bytes = size

    def xSync(self, flags: int) -> bool:  # noqa: N802
        del flags
        self._export.flush()
        return True

    def xFileSize(self) -> int:  # noqa: N802
        return self._length_bytes

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return DEVICE_PROMISES

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        del op, pointer
        return False

    # One connection of one process has the volumes: there is nobody to lock out.

    def xLock(self, level: int) -> None:  # noqa: N802
        del level

    def xUnlock(self, level: int) -> None:  # noqa: N802
        del level

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xClose(self) -> None:  # noqa: N802 - the exports outlive SQLite's files
        return


class VolumeVfs(apsw.VFS):
    """Maps SQLite's file names to exports; knows no other files."""

    def __init__(self, name: str, exports: Mapping[str, Volume]) -> None:
        self.name = name
        self._exports = exports
        super().__init__(name, base="")

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def xOpen(  # type: ignore[override]  # noqa: N802 - duck-typed, as apsw allows
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> VolumeFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or path not in self._exports:
            raise apsw.CantOpenError(f"no volume for SQLite's file {path}")
        flags[1] = flags[0]
        is_journal = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_JOURNAL)
        return VolumeFile(self._exports[path], is_journal=is_journal)

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        del flags
        return pathname in self._exports

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Make a journal cold, durably: a volume cannot be deleted."""
        del syncdir
        self._exports[filename].write(0, bytes(SECTOR_BYTES))
        self._exports[filename].flush()
