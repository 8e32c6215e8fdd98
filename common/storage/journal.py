"""A journal: the old content of every track overwritten since its point.

One file a volume and relation, written front to back by one thread at a time and
read by any. The open journal grows; a finished one never changes. Its bytes:
`common.storage.journal_format`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from common.errors import CorruptStateError, StorageError
from common.ports import File, Files
from common.storage.bitmap import Bitmap
from common.storage.flush_guard import FlushGuard
from common.storage.journal_batches import (
    WholeBatches,
    batch_at,
    refuse_batches_behind,
)
from common.storage.journal_format import (
    BLOCK_BYTES,
    RECORD_HEADER_BYTES,
    Entry,
    JournalHeader,
    OldRun,
    StoredRun,
    format_batch,
    format_header,
    padded,
    parse_header,
    parse_record,
    parse_stored,
)
from common.storage.journal_index import (
    IndexDamagedError,
    OpenIndex,
    SealedIndex,
    write_index,
)
from common.storage.open_journals import OpenJournals


class Journal:
    """Make one with `create`, `recover` (the open one) or `finished`.

    `find` and `read` may be called from any thread, also during an `append`;
    `append` and `seal` from one thread at a time. All may block. Once its index is on
    disk a finished journal is opened when it is asked and closed again by `opened`.
    """

    __slots__ = (
        "_end",
        "_file",
        "_files",
        "_guard",
        "_index",
        "_is_trusted",
        "_loading",
        "_opened",
        "_sequence",
        "_tail_is_torn",
        "_users",
        "header",
        "path",
        "preserved",
    )

    def __init__(
        self,
        files: Files,
        path: str,
        header: JournalHeader,
        guard: FlushGuard,
        opened: OpenJournals | None = None,
    ) -> None:
        self.path = path
        self.header = header
        self._files = files
        self._guard = guard
        self._opened = opened
        self._file: File | None = None
        self._index: OpenIndex | SealedIndex | None = None
        self._loading = threading.Lock()
        self._users = 0
        self._is_trusted = False
        """What the disk has is what was read: known since this process began."""
        self._end = 0
        self._sequence = 0
        self._tail_is_torn = False
        self.preserved: Bitmap | None = None
        """Tracks in this journal; only for the thread that appends."""

    # -- making ------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        files: Files,
        path: str,
        header: JournalHeader,
        guard: FlushGuard,
        opened: OpenJournals | None = None,
    ) -> Journal:
        """Make an empty journal; fsync its directory before relying on it."""
        journal = cls(files, path, header, guard, opened)
        file = files.open(path, create=True)
        try:
            file.truncate(0)  # left by a commit that failed before its record
            file.write(0, format_header(header))
            guard.datasync(file)
        except BaseException:
            file.close()
            raise
        journal._file, journal._end = file, BLOCK_BYTES
        journal._is_trusted = True
        journal._index = OpenIndex()
        journal.preserved = Bitmap(header.track_count)
        return journal

    @classmethod
    def recover(
        cls,
        files: Files,
        path: str,
        header: JournalHeader,
        guard: FlushGuard,
        opened: OpenJournals | None = None,
    ) -> Journal:
        """Reopen the open journal after a stop of any kind, to append to it.

        Order: fdatasync, forget the page cache, read, cut the torn tail, fdatasync.
        The first two defend against page cache that a killed process left: what is
        trusted now has to outlive a power loss, also where the flush that failed
        was the killed process's. Whole batches are never written again: a rewrite cut
        short would destroy what was durable.
        """
        journal = cls(files, path, header, guard, opened)
        file = journal._open_file()
        try:
            guard.datasync(file)
            file.drop_cache()  # a batch whose flush failed is in memory only
            journal.preserved = Bitmap(header.track_count)
            index = OpenIndex()
            whole = WholeBatches(file, header)
            for entries in whole:
                index.add(entries)
                for first, count, _ in entries:
                    journal.preserved.set_range(first, count)
            journal._end, journal._sequence = whole.end, whole.count
            refuse_batches_behind(file, header, path, whole.end)
            if file.size() != journal._end:
                file.truncate(journal._end)
                guard.datasync(file)
        except BaseException:
            file.close()
            raise
        journal._file, journal._index = file, index
        journal._is_trusted = True
        return journal

    @classmethod
    def finished(
        cls,
        files: Files,
        path: str,
        header: JournalHeader,
        guard: FlushGuard,
        opened: OpenJournals | None = None,
    ) -> Journal:
        """Stand for a finished journal; nothing is opened before it is asked."""
        return cls(files, path, header, guard, opened)

    @classmethod
    def merged(
        cls,
        files: Files,
        path: str,
        header: JournalHeader,
        guard: FlushGuard,
        opened: OpenJournals | None,
        written: tuple[File, int, OpenIndex],
    ) -> Journal:
        """Stand for a finished journal that was just written: (file, end, index)."""
        journal = cls(files, path, header, guard, opened)
        journal._file, journal._end, journal._index = written
        journal._is_trusted = True
        return journal

    def _open_file(self) -> File:
        file = self._files.open(self.path)
        try:
            size = file.size()
            block = file.read(0, BLOCK_BYTES) if size >= BLOCK_BYTES else b""
        except BaseException:
            file.close()
            raise
        if parse_header(block) == self.header:
            return file
        file.close()
        raise CorruptStateError(
            f"{self.path}: not the journal that the group's record names; "
            "restore this file, or start the group anew"
        )

    # -- writing -----------------------------------------------------------------------

    def append(self, runs: Sequence[OldRun]) -> None:
        """Preserve runs: durable, then visible to readers, before returning.

        Order: cut what a failed append left, write, fdatasync, index. The crash it
        defends against: a track overwritten on the secondary volume whose old
        content is not on the disk yet. Raises `StorageError`; after lack of room
        the same append may be tried again.
        """
        assert isinstance(self._index, OpenIndex)
        assert self._file is not None
        assert self.preserved is not None
        self._guard.check()
        batch, entries = format_batch(self.header, self._sequence, self._end, runs)
        self._cut_tail(self._file)
        self._tail_is_torn = True
        self._file.write(self._end, batch)
        self._guard.datasync(self._file)
        self._tail_is_torn = False
        self._end += len(batch)
        self._sequence += 1
        self._index.add(entries)
        for first, count, _ in entries:
            added = self.preserved.set_range(first, count)
            assert added == count, "a track preserved twice in one relation"

    def _cut_tail(self, file: File) -> None:
        if self._tail_is_torn:
            file.truncate(self._end)
            self._tail_is_torn = False

    def finish(self) -> None:
        """Make the journal whole on disk: nothing will be appended after this.

        Order: cut what a failed append left, fdatasync; the record that opens the
        next journal comes after. The crash it defends against: torn bytes at the
        end of a finished journal, where no append can explain them.
        """
        assert self._file is not None
        if self._tail_is_torn:
            self._cut_tail(self._file)
            self._guard.datasync(self._file)

    def seal(self) -> None:
        """Put the index of a finished journal on disk, out of memory.

        Raises `StorageError`; the journal works on from memory then.
        """
        self.preserved = None
        if not isinstance(self._index, OpenIndex):
            return
        path = index_path(self.path)
        relation_id = self.header.relation_id
        write_index(self._files, path, relation_id, self._end, self._index)
        try:
            self._index = SealedIndex.open(self._files, path, relation_id, self._end)
        except IndexDamagedError:
            return  # stays in memory
        self._was_used()

    # -- reading -----------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """Bytes on disk; 0 for a finished one that was never opened."""
        return self._end

    @property
    def is_sealed(self) -> bool:
        """It was finished and its index is on disk; or nobody has asked it yet."""
        return not isinstance(self._index, OpenIndex)

    def measure(self) -> int:
        """Return the bytes on disk, also of one that nothing has asked yet."""
        if self._end == 0:
            with self._using():
                return self._end
        return self._end

    def find(self, first: int, count: int) -> list[Entry]:
        """Return the entries that share a track with the range, ascending."""
        if isinstance(memory := self._index, OpenIndex):
            return memory.find(first, count)
        with self._using() as index:
            try:
                return index.find(first, count)
            except IndexDamagedError:
                return self._repaired(index).find(first, count)

    def next_entry(self, first: int) -> int | None:
        """Return the first track from `first` on that it has an entry of, or None."""
        if isinstance(memory := self._index, OpenIndex):
            return memory.next_entry(first)
        with self._using() as index:
            try:
                return index.next_entry(first)
            except IndexDamagedError:
                return self._repaired(index).next_entry(first)

    def read(self, entry: Entry) -> bytes | None:
        """Return an entry's old bytes (the whole run), None where all are zero.

        Raises `CorruptStateError` when the checksum does not hold.
        """
        with self._using():
            return parse_record(self.header, self.path, entry, self._record(entry))

    def read_stored(self, entry: Entry) -> StoredRun:
        """Return an entry's record without unpacking it; raises as `read`."""
        with self._using():
            return parse_stored(self.header, self.path, entry, self._record(entry))

    def _record(self, entry: Entry) -> bytes:
        assert self._file is not None
        first, count, position = entry
        header = self.header
        run_bytes = header.run_bytes(first, min(count, header.run_tracks_max))
        # Stored bytes are never more than the run's: one read gets them all.
        length = min(RECORD_HEADER_BYTES + run_bytes, self._end - position)
        return self._file.read(position, length)

    def begin_check(self) -> tuple[int, int]:
        """Return (position, end) for `check_batch`: what is durable now, from disk.

        Memory forgets the file first, so that it is the disk that is looked at.
        """
        with self._using():
            assert self._file is not None
            end = self._end
            self._file.drop_cache()
            return BLOCK_BYTES, end

    def check_batch(self, position: int, end: int) -> int:
        """Read the batch at `position` whole; return where the next one begins.

        Raises `CorruptStateError`, naming the byte, where its checksum fails.
        """
        with self._using():
            assert self._file is not None
            found = batch_at(self._file, self.header, position, end)
        if found is None:
            raise CorruptStateError(
                f"{self.path}: what was preserved at byte {position} fails its "
                f"checksum: recovery points up to {self.header.point_number} can't be "
                "read where they need it, newer ones are whole; look to the disk, and "
                "cut once more"
            )
        return position + padded(found[2])

    # -- opening and letting go --------------------------------------------------------

    @contextmanager
    def _using(self) -> Iterator[OpenIndex | SealedIndex]:
        """Have the files open, and nobody close them, for as long as it lasts."""
        with self._loading:
            self._users += 1
            try:
                index = self._loaded()
            except BaseException:
                self._users -= 1
                raise
        try:
            yield index
        finally:
            with self._loading:
                self._users -= 1
            self._was_used()

    def _was_used(self) -> None:
        if self._opened is not None and isinstance(self._index, SealedIndex):
            self._opened.used(self)

    def let_go(self) -> bool:
        """Close the files of a finished journal, unless somebody is using them."""
        with self._loading:
            if self._users:
                return False
            if isinstance(self._index, SealedIndex):
                self._close_files()
                self._index = None
            return True

    def _loaded(self) -> OpenIndex | SealedIndex:
        if self._file is None:
            file = self._open_file()
            try:
                if not self._is_trusted:
                    self._guard.datasync(file)
                    file.drop_cache()
                self._end = file.size()
            except StorageError:
                file.close()
                raise
            self._file, self._is_trusted = file, True
        if self._index is None:
            self._index = self._stored_index(self._file)
        return self._index

    def _stored_index(self, file: File) -> OpenIndex | SealedIndex:
        path, relation_id = index_path(self.path), self.header.relation_id
        try:
            return SealedIndex.open(self._files, path, relation_id, self._end)
        except IndexDamagedError:
            return self._indexed(file)

    def _repaired(self, damaged: OpenIndex | SealedIndex) -> OpenIndex | SealedIndex:
        """Return an index in place of a damaged one; in memory until it is sealed.

        The damaged one is not closed here: others may be looking at it.
        """
        with self._loading:
            assert self._file is not None
            if self._index is damaged:
                self._index = self._indexed(self._file)
            assert self._index is not None
            return self._index

    def _indexed(self, file: File) -> OpenIndex:
        index, whole = OpenIndex(), WholeBatches(file, self.header)
        for entries in whole:
            index.add(entries)
        self._end = file.size()
        if whole.end != self._end:
            raise CorruptStateError(
                f"{self.path}: a finished journal is not whole; the disk has lost it, "
                "and with it this and older recovery points"
            )
        return index

    def _close_files(self) -> None:
        if isinstance(self._index, SealedIndex):
            self._index.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Let go of the files for good; nobody is using them."""
        if self._opened is not None:
            self._opened.forget(self)
        with self._loading:
            self._close_files()


def index_path(journal_path: str) -> str:
    return f"{journal_path}.index"
