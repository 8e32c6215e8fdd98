"""The file and the index of one journal: opened when asked for, then closed again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from common.errors import CorruptStateError, StorageError
from common.ports import File, Files
from common.storage.flush_guard import FlushGuard
from common.storage.journal_batches import WholeBatches
from common.storage.journal_format import BLOCK_BYTES, JournalHeader, parse_header
from common.storage.journal_index import (
    IndexDamagedError,
    OpenIndex,
    SealedIndex,
    write_index,
)
from common.storage.open_journals import OpenJournals


@dataclass(frozen=True, slots=True)
class JournalPlace:
    """Where a journal is, and what its file has to begin with."""

    files: Files
    path: str
    header: JournalHeader
    guard: FlushGuard
    opened: OpenJournals | None = None
    """Who closes the files of finished journals; None: nobody does."""


class JournalFiles:
    """What of one journal is open. From any thread; all may block.

    A finished journal whose index is on disk is closed when `JournalPlace.opened`
    says so, and opened by the next who uses it. It is not flushed then, nor forgotten
    by memory as a growing one is at a start: no record names a journal as finished
    before all of it is fdatasynced, and after a flush that failed none is stored. A
    flush for each of a thousand would have who opens an old point wait for the disk.
    """

    __slots__ = ("_lock", "_place", "_users", "end", "file", "index")

    def __init__(self, place: JournalPlace) -> None:
        self.file: File | None = None
        self.index: OpenIndex | SealedIndex | None = None
        """In memory while the journal grows, and for as long as it can't be stored."""
        self.end = 0
        """Bytes of the file that hold; 0 while it was never opened."""
        self._place = place
        self._lock = threading.Lock()
        self._users = 0

    def open(self) -> File:
        """Return the file, newly opened, which is the journal that it should be."""
        place = self._place
        file = place.files.open(place.path)
        try:
            size = file.size()
            block = file.read(0, BLOCK_BYTES) if size >= BLOCK_BYTES else b""
        except BaseException:
            file.close()
            raise
        if parse_header(block) == place.header:
            return file
        file.close()
        raise CorruptStateError(
            f"{place.path}: not the journal that the group's record names; "
            "restore this file, or start the group anew"
        )

    def have(self, file: File, end: int, index: OpenIndex) -> None:
        """Take a file of which the disk is known to have all up to `end`."""
        self.file, self.end, self.index = file, end, index

    @contextmanager
    def using(self) -> Iterator[tuple[File, OpenIndex | SealedIndex]]:
        """Have both open, and nobody close them, for as long as it lasts."""
        with self._lock:
            self._users += 1
            try:
                found = self._loaded()
            except BaseException:
                self._users -= 1
                raise
        try:
            yield found
        finally:
            with self._lock:
                self._users -= 1
            self._was_used()

    def seal(self) -> None:
        """Put the index on disk, out of memory; `StorageError`: it stays there."""
        if not isinstance(self.index, OpenIndex):
            return
        files, path = self._place.files, index_path(self._place.path)
        relation_id = self._place.header.relation_id
        write_index(files, path, relation_id, self.end, self.index)
        try:
            self.index = SealedIndex.open(files, path, relation_id, self.end)
        except IndexDamagedError:
            return  # stays in memory
        self._was_used()

    def repaired(self, damaged: OpenIndex | SealedIndex) -> OpenIndex | SealedIndex:
        """Return an index in place of a damaged one; in memory until it is sealed.

        The damaged one is not closed here: others may be looking at it.
        """
        with self._lock:
            assert self.file is not None
            if self.index is damaged:
                self.index = self._indexed(self.file)
            assert self.index is not None
            return self.index

    def let_go(self) -> bool:
        """Close the files of a finished journal, unless somebody is using them."""
        with self._lock:
            if self._users:
                return False
            if isinstance(self.index, SealedIndex):
                self._close()
                self.index = None
            return True

    def close(self) -> None:
        """Let go of the files for good; nobody is using them."""
        if self._place.opened is not None:
            self._place.opened.forget(self)
        with self._lock:
            self._close()

    def _close(self) -> None:
        if isinstance(self.index, SealedIndex):
            self.index.close()
        if self.file is not None:
            self.file.close()
            self.file = None

    def _was_used(self) -> None:
        if self._place.opened is not None and isinstance(self.index, SealedIndex):
            self._place.opened.used(self)

    def _loaded(self) -> tuple[File, OpenIndex | SealedIndex]:
        if self.file is None:
            file = self.open()
            try:
                self.end = file.size()
            except StorageError:
                file.close()
                raise
            self.file = file
        if self.index is None:
            self.index = self._stored_index(self.file)
        return self.file, self.index

    def _stored_index(self, file: File) -> OpenIndex | SealedIndex:
        place = self._place
        path, relation_id = index_path(place.path), place.header.relation_id
        try:
            return SealedIndex.open(place.files, path, relation_id, self.end)
        except IndexDamagedError:
            return self._indexed(file)

    def _indexed(self, file: File) -> OpenIndex:
        index, whole = OpenIndex(), WholeBatches(file, self._place.header)
        for entries in whole:
            index.add(entries)
        self.end = file.size()
        if whole.end != self.end:
            raise CorruptStateError(
                f"{self._place.path}: a finished journal is not whole; the disk has "
                "lost it, and with it this and older recovery points"
            )
        return index


def index_path(journal_path: str) -> str:
    return f"{journal_path}.index"
