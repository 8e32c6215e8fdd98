"""Fail-stop after the first failed flush (I9).

Linux marks pages clean when their write-back fails: the next fdatasync says that
all is well while the disk holds old data. So the first failure is remembered and
nothing after it may be called durable until the next start has looked again.
"""

from __future__ import annotations

from common.errors import StorageError
from common.ports import File, Files


class FlushGuard:
    """One for all files whose durability is promised together."""

    def __init__(self) -> None:
        self.failed: StorageError | None = None

    def check(self) -> None:
        """Raise the failure of an earlier flush, if there was one."""
        if self.failed is not None:
            raise self.failed

    def datasync(self, file: File) -> None:
        self.check()
        try:
            file.datasync()
        except StorageError as error:
            self.failed = error
            raise

    def sync_directory(self, files: Files, path: str) -> None:
        self.check()
        try:
            files.sync_directory(path)
        except StorageError as error:
            self.failed = error
            raise
