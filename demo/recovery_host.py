"""What a recovery host does: read the newest recovery point, open the database.

The point is read over NBD from the remote into ordinary files, and those are
opened by the SQLite that came with Python: a program that knows nothing of
farshore decides whether it is a database. A transaction that the cut went through
is rolled back by SQLite itself from the journal, the other volume of the group.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.bank import DATABASE, JOURNAL, integrity, prefix_held
from demo.nbd_export import NbdExport
from demo.volume_vfs import HEADER_BYTES, database_bytes

READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Recovered:
    """What came back. `held`: transactions 1 to that number; else what is wrong."""

    bytes_read: int
    was_hot: bool
    integrity: str
    held: int | str

    @property
    def is_sound(self) -> bool:
        return self.integrity == "ok" and isinstance(self.held, int)


def recover(
    socket_path: str, data_export: str, log_export: str, directory: Path
) -> Recovered:
    """Restore both volumes into `directory` and judge the database in them.

    Raises OSError where the remote cannot be read.
    """
    database_path, journal_path = directory / DATABASE, directory / JOURNAL
    with (
        NbdExport(socket_path, data_export) as data,
        NbdExport(socket_path, log_export) as log,
    ):
        length = database_bytes(data.read(0, HEADER_BYTES))
        _copy(data, database_path, length)
        _copy(log, journal_path, log.size_bytes)
    bytes_read = length + journal_path.stat().st_size
    return judge(directory, bytes_read)


def judge(directory: Path, bytes_read: int) -> Recovered:
    """Open the restored database, which rolls a hot journal back, and check it."""
    database_path, journal_path = directory / DATABASE, directory / JOURNAL
    with journal_path.open("rb") as journal:
        was_hot = journal.read(1) != b"\0"
    try:
        database = sqlite3.connect(database_path)
        try:
            answer, held = integrity(database), prefix_held(database)
        finally:
            database.close()
    except sqlite3.Error as error:
        return Recovered(bytes_read, was_hot, f"does not open: {error}", "unknown")
    return Recovered(bytes_read, was_hot, answer, held)


def _copy(export: NbdExport, path: Path, length: int) -> None:
    """Write the export's first `length` bytes into a new file, zeroes as holes."""
    with path.open("wb") as file:
        for offset in range(0, length, READ_BYTES):
            data = export.read(offset, min(READ_BYTES, length - offset))
            if any(data):
                file.seek(offset)
                file.write(data)
        file.truncate(length)
