"""The batches of a journal as its file has them: the whole ones, and what is behind.

Only reads. What makes a batch whole: `common.storage.journal_format`.
"""

from __future__ import annotations

from collections.abc import Iterator

from common.errors import CorruptStateError
from common.ports import File
from common.storage.journal_format import (
    BATCH_HEADER_BYTES,
    BLOCK_BYTES,
    Entry,
    JournalHeader,
    padded,
    parse_batch,
    parse_batch_header,
)

_TAIL_SCAN_BYTES = 1 << 20


class WholeBatches:
    """Gives the entries of one whole batch after the other, from the first on.

    `end` and `count` are of those given so far: where the next begins, how many.
    """

    def __init__(self, file: File, header: JournalHeader) -> None:
        self.end = BLOCK_BYTES
        self.count = 0
        self._file = file
        self._header = header

    def __iter__(self) -> Iterator[list[Entry]]:
        size = self._file.size()
        while self.end < size:  # ends: each turn consumes a block at least
            found = batch_at(self._file, self._header, self.end, size)
            if found is None or found[0] != self.count:
                return
            _, entries, batch_bytes = found
            self.end += padded(batch_bytes)
            self.count += 1
            yield entries


def batch_at(
    file: File, header: JournalHeader, position: int, size: int
) -> tuple[int, list[Entry], int] | None:
    """Return (sequence, entries, bytes unpadded) of a whole batch, or None."""
    if size - position < BATCH_HEADER_BYTES:
        return None
    stated = parse_batch_header(file.read(position, BATCH_HEADER_BYTES))
    if stated is None:
        return None
    sequence, body_bytes = stated
    if position + BATCH_HEADER_BYTES + body_bytes > size:
        return None
    batch = file.read(position, BATCH_HEADER_BYTES + body_bytes)
    entries = parse_batch(header, position, batch)
    return None if entries is None else (sequence, entries, len(batch))


def refuse_batches_behind(
    file: File, header: JournalHeader, path: str, end: int
) -> None:
    """Raise `CorruptStateError` where a whole batch lies behind a damaged one.

    A batch is written only when the one before is durable: no crash does this. Reads
    at most what lies behind `end`, the last whole batch's: one append, normally.
    """
    size = file.size()
    for start in range(end, size, _TAIL_SCAN_BYTES):
        window = file.read(start, min(_TAIL_SCAN_BYTES, size - start))
        for offset in range(0, len(window), BLOCK_BYTES):
            block = window[offset : offset + BATCH_HEADER_BYTES]
            if parse_batch_header(block) is None:
                continue
            if batch_at(file, header, start + offset, size) is not None:
                raise CorruptStateError(
                    f"{path}: damaged at byte {end}, with whole data "
                    "behind it; the disk has lost a part of this journal"
                )
