"""A journal: the old content of every track overwritten since its point.

One file a volume and relation, written front to back by one thread at a time and
read by any. The open journal grows; a finished one never changes. Its bytes:
`common.storage.journal_format`.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import CorruptStateError
from common.ports import File
from common.storage.bitmap import Bitmap
from common.storage.journal_batches import (
    WholeBatches,
    batch_at,
    refuse_batches_behind,
)
from common.storage.journal_files import JournalFiles, JournalPlace
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
    parse_record,
    parse_stored,
)
from common.storage.journal_index import IndexDamagedError, OpenIndex


class Journal:
    """One that is finished; nothing of it is opened before it is asked.

    The one that grows is made by `create` or `recover`.

    `find` and `read` may be called from any thread, also during an `append`;
    `append` and `seal` from one thread at a time. All may block.
    """

    __slots__ = (
        "_guard",
        "_sequence",
        "_stored",
        "_tail_is_torn",
        "header",
        "path",
        "preserved",
    )

    def __init__(self, place: JournalPlace) -> None:
        self.path = place.path
        self.header: JournalHeader = place.header
        self._guard = place.guard
        self._stored = JournalFiles(place)
        self._sequence = 0
        self._tail_is_torn = False
        self.preserved: Bitmap | None = None
        """Tracks in this journal; only for the thread that appends."""

    # -- making ------------------------------------------------------------------------

    @classmethod
    def create(cls, place: JournalPlace) -> Journal:
        """Make an empty journal; fsync its directory before relying on it."""
        journal, header, guard = cls(place), place.header, place.guard
        file = place.files.open(place.path, create=True)
        try:
            file.truncate(0)  # left by a commit that failed before its record
            file.write(0, format_header(header))
            guard.datasync(file)
        except BaseException:
            file.close()
            raise
        journal._stored.have(file, BLOCK_BYTES, OpenIndex())
        journal.preserved = Bitmap(header.track_count)
        return journal

    @classmethod
    def recover(cls, place: JournalPlace) -> Journal:
        """Reopen the open journal after a stop of any kind, to append to it.

        Order: fdatasync, forget the page cache, read, cut the torn tail, fdatasync.
        The first two defend against page cache that a killed process left: what is
        trusted now has to outlive a power loss, also where the flush that failed
        was the killed process's. Whole batches are never written again: a rewrite cut
        short would destroy what was durable.
        """
        journal, header, guard = cls(place), place.header, place.guard
        file = journal._stored.open()
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
            refuse_batches_behind(file, header, place.path, whole.end)
            if file.size() != whole.end:
                file.truncate(whole.end)
                guard.datasync(file)
        except BaseException:
            file.close()
            raise
        journal._stored.have(file, whole.end, index)
        journal._sequence = whole.count
        return journal

    @classmethod
    def written(
        cls, place: JournalPlace, file: File, end: int, index: OpenIndex
    ) -> Journal:
        """Return a finished journal that was just written, durably, up to `end`."""
        journal = cls(place)
        journal._stored.have(file, end, index)
        return journal

    # -- writing -----------------------------------------------------------------------

    def append(self, runs: Sequence[OldRun]) -> None:
        """Preserve runs: durable, then visible to readers, before returning.

        Order: cut what a failed append left, write, fdatasync, index. The crash it
        defends against: a track overwritten on the secondary volume whose old
        content is not on the disk yet. Raises `StorageError`; after lack of room
        the same append may be tried again.
        """
        stored = self._stored
        file, index = stored.file, stored.index
        assert isinstance(index, OpenIndex)
        assert file is not None
        assert self.preserved is not None
        self._guard.check()
        batch, entries = format_batch(self.header, self._sequence, stored.end, runs)
        self._cut_tail(file)
        self._tail_is_torn = True
        file.write(stored.end, batch)
        self._guard.datasync(file)
        self._tail_is_torn = False
        stored.end += len(batch)
        self._sequence += 1
        index.add(entries)
        for first, count, _ in entries:
            added = self.preserved.set_range(first, count)
            assert added == count, "a track preserved twice in one relation"

    def _cut_tail(self, file: File) -> None:
        if self._tail_is_torn:
            file.truncate(self._stored.end)
            self._tail_is_torn = False

    def finish(self) -> None:
        """Make the journal whole on disk: nothing will be appended after this.

        Order: cut what a failed append left, fdatasync; the record that opens the
        next journal comes after. The crash it defends against: torn bytes at the
        end of a finished journal, where no append can explain them.
        """
        file = self._stored.file
        assert file is not None
        if self._tail_is_torn:
            self._cut_tail(file)
            self._guard.datasync(file)

    def seal(self) -> None:
        """Put the index of a finished journal on disk, out of memory.

        Raises `StorageError`; the journal works on from memory then.
        """
        self.preserved = None
        self._stored.seal()

    # -- reading -----------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """Bytes on disk; 0 for a finished one that was never opened."""
        return self._stored.end

    @property
    def is_sealed(self) -> bool:
        """It was finished and its index is on disk; or nobody has asked it yet."""
        return not isinstance(self._stored.index, OpenIndex)

    def measure(self) -> int:
        """Return the bytes on disk, also of one that nothing has asked yet."""
        if self._stored.end == 0:
            with self._stored.using():
                return self._stored.end
        return self._stored.end

    def find(self, first: int, count: int) -> list[Entry]:
        """Return the entries that share a track with the range, ascending."""
        if isinstance(memory := self._stored.index, OpenIndex):
            return memory.find(first, count)
        with self._stored.using() as (_, index):
            try:
                return index.find(first, count)
            except IndexDamagedError:
                return self._stored.repaired(index).find(first, count)

    def next_entry(self, first: int) -> int | None:
        """Return the first track from `first` on that it has an entry of, or None."""
        if isinstance(memory := self._stored.index, OpenIndex):
            return memory.next_entry(first)
        with self._stored.using() as (_, index):
            try:
                return index.next_entry(first)
            except IndexDamagedError:
                return self._stored.repaired(index).next_entry(first)

    def read(self, entry: Entry) -> bytes | None:
        """Return an entry's old bytes (the whole run), None where all are zero.

        Raises `CorruptStateError` when the checksum does not hold.
        """
        return parse_record(self.header, self.path, entry, self._record(entry))

    def read_stored(self, entry: Entry) -> StoredRun:
        """Return an entry's record without unpacking it; raises as `read`."""
        return parse_stored(self.header, self.path, entry, self._record(entry))

    def _record(self, entry: Entry) -> bytes:
        first, count, position = entry
        header = self.header
        run_bytes = header.run_bytes(first, min(count, header.run_tracks_max))
        with self._stored.using() as (file, _):
            # Stored bytes are never more than the run's: one read gets them all.
            length = min(RECORD_HEADER_BYTES + run_bytes, self._stored.end - position)
            return file.read(position, length)

    def begin_check(self) -> tuple[int, int]:
        """Return (position, end) for `check_batch`: what is durable now, from disk.

        Memory forgets the file first, so that it is the disk that is looked at.
        """
        with self._stored.using() as (file, _):
            end = self._stored.end
            file.drop_cache()
            return BLOCK_BYTES, end

    def check_batch(self, position: int, end: int) -> int:
        """Read the batch at `position` whole; return where the next one begins.

        Raises `CorruptStateError`, naming the byte, where its checksum fails.
        """
        with self._stored.using() as (file, _):
            found = batch_at(file, self.header, position, end)
        if found is None:
            raise CorruptStateError(
                f"{self.path}: what was preserved at byte {position} fails its "
                f"checksum: recovery points up to {self.header.point_number} can't be "
                "read where they need it, newer ones are whole; look to the disk, and "
                "cut once more"
            )
        return position + padded(found[2])

    def close(self) -> None:
        """Let go of the files for good; nobody is using them."""
        self._stored.close()
