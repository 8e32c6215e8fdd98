"""Several finished journals made one, which shows what the first of them showed.

image(k) is the first record in journals k, k+1, ...: so the journal that stands for k
and those after it has of each track the record of the first that has one. Records are
copied as they are packed, checked on the way, and cut where an earlier journal has a
part of them or where point k's volume ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from common.errors import StorageError
from common.ports import File, Files
from common.storage.journal import Journal
from common.storage.journal_files import JournalPlace, index_path
from common.storage.journal_format import (
    BATCH_RECORDS_MAX,
    BLOCK_BYTES,
    Encoding,
    Entry,
    OldRun,
    StoredRun,
    format_batch,
    format_header,
)
from common.storage.journal_index import OpenIndex
from common.storage.journal_window import WINDOW_TRACKS, Piece, Window

BATCH_BYTES = 1 << 20
"""Raw bytes of a batch, which is one step: what a thread does in one go."""


class JournalMerge:
    """Merges `sources`, oldest first, into a new file at `place`.

    Drive `steps` to its end, then call `finish`; or `close` and `remove` at any time.
    Synchronous; the sources must not be removed during a step. Memory: a batch, a
    window's map, and 16 bytes for each run that is merged.
    """

    def __init__(
        self,
        place: JournalPlace,
        sources: Sequence[Journal],
    ) -> None:
        self.path = place.path
        self.header = place.header
        self._place = place
        self._sources = sources
        self._guard = place.guard
        self._file: File | None = None
        self._end = BLOCK_BYTES
        self._sequence = 0
        self._index = OpenIndex()
        self._batch: list[OldRun | StoredRun] = []
        self._batch_bytes = 0
        self._unpacked: tuple[Journal, Entry, bytes | None] | None = None

    def steps(self) -> Iterator[int]:
        """Yield after each batch: the bytes it wrote. Ends when all is written."""
        self._file = self._place.files.open(self.path, create=True)
        self._file.truncate(0)  # left by a merge that was cut short
        self._file.write(0, format_header(self.header))
        cursor, end = 0, self.header.track_count
        while (start := self._next(cursor)) is not None and start < end:
            window = Window(start, min(WINDOW_TRACKS, end - start))
            window.cover(self._sources, len(self._sources))
            cursor = start + WINDOW_TRACKS
            count = min(cursor, end) - start
            for piece in window.pieces(self._sources, start, count)[0]:
                self._take(piece)
                if (
                    self._batch_bytes >= BATCH_BYTES
                    or len(self._batch) == BATCH_RECORDS_MAX
                ):
                    yield self._write()
        if self._batch:
            yield self._write()

    def _next(self, first: int) -> int | None:
        found = [journal.next_entry(first) for journal in self._sources]
        return min((track for track in found if track is not None), default=None)

    def _take(self, piece: Piece) -> None:
        first, count, journal, entry = piece
        if (first, count) == entry[:2]:
            stored = journal.read_stored(entry)
            length = self.header.run_bytes(first, count)
            if stored.encoding == Encoding.ZERO or stored.raw_bytes == length:
                self._batch.append(stored)
                self._batch_bytes += stored.raw_bytes
                return
        data = self._part(first, count, journal, entry)
        self._batch.append(OldRun(first, count, data))
        self._batch_bytes += len(data) if data is not None else 0

    def _part(
        self, first: int, count: int, journal: Journal, entry: Entry
    ) -> bytes | None:
        """Return the old content of some of an entry's tracks."""
        kept = self._unpacked
        if kept is None or kept[0] is not journal or kept[1] != entry:
            kept = self._unpacked = (journal, entry, journal.read(entry))
        if kept[2] is None:
            return None
        at = (first - entry[0]) * self.header.track_bytes
        return kept[2][at : at + self.header.run_bytes(first, count)]

    def _write(self) -> int:
        """Write a batch and flush it: no flush has much to do at the end."""
        assert self._file is not None
        batch, entries = format_batch(
            self.header, self._sequence, self._end, self._batch
        )
        self._file.write(self._end, batch)
        self._guard.datasync(self._file)
        self._end += len(batch)
        self._sequence += 1
        self._index.add(entries)
        self._batch, self._batch_bytes = [], 0
        return len(batch)

    def finish(self) -> Journal:
        """Return the new journal, durable but for its name, its index on disk.

        Order: all of it, fdatasync, its index; the directory and the record that names
        it come after. The crash it defends against: a point whose journal is a file
        with holes.
        """
        assert self._file is not None
        self._guard.datasync(self._file)
        journal = Journal.written(self._place, self._file, self._end, self._index)
        self._file = None
        with suppress(StorageError):
            journal.seal()  # no room: it stays in memory for now
        return journal

    def close(self) -> None:
        """Let go of the file of a merge that was not finished."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete what was written."""
        remove_journal(self._place.files, self.path)


def remove_journal(files: Files, path: str) -> None:
    """Delete a journal and its index; what can't be deleted the next start does."""
    for each in (path, index_path(path)):
        with suppress(StorageError):
            if files.exists(each):
                files.remove(each)
