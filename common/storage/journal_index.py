"""Where in a journal a track's old content lies.

An entry is two 64-bit numbers: first track << 24 | count, and the position of
the record in the journal. No track is in two entries of one journal. `OpenIndex`
lives in memory while its journal grows; `SealedIndex` reads its `.index` file,
which can always be made again from the journal and so is never trusted blindly.

Layout of `.index` (little endian): header block: 8s magic, u32 version, u32 crc32
(of the block with this field 0), 16s relation, u64 page count, u64 entry count,
u64 journal bytes, u32 crc32 of the fences; then pages of 4 KiB: u32 crc32 (of the
rest of the page), u32 entry count, up to 255 entries, ascending; then the fences:
the first number of every page's first entry.
"""

from __future__ import annotations

import bisect
import struct
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from common.ports import File, Files
from common.storage.journal_format import BLOCK_BYTES, ZERO_TRACKS_MAX, Entry

COUNT_BITS = 24
COUNT_MASK = (1 << COUNT_BITS) - 1
assert ZERO_TRACKS_MAX <= COUNT_MASK

Numbers = npt.NDArray[np.int64]
Segment = tuple[Numbers, Numbers]

INDEX_MAGIC = b"FSHJIDX1"
FORMAT_VERSION = 1
PAGE_ENTRIES = (BLOCK_BYTES - 8) // 16
_HEADER = struct.Struct("<8sII16sQQQI")
_WRITE_PAGES = 256


class IndexDamagedError(Exception):
    """An `.index` file is not whole; its journal still is: index it again."""


class OpenIndex:
    """Sorted segments, merged so that there are few; one writer, many readers.

    `segments` is an immutable tuple that is replaced as a whole: a reader in
    another thread sees all entries of an `add` or none. Bytes: 16 an entry.
    """

    __slots__ = ("segments",)

    def __init__(self) -> None:
        self.segments: tuple[Segment, ...] = ()

    @property
    def entry_count(self) -> int:
        return sum(len(keys) for keys, _ in self.segments)

    def add(self, entries: Iterable[Entry]) -> None:
        """Make entries visible to readers from here on."""
        ordered = sorted(entries)
        keys = np.array([f << COUNT_BITS | c for f, c, _ in ordered], np.int64)
        positions = np.array([p for _, _, p in ordered], np.int64)
        segments = list(self.segments)
        # Each segment at least twice the next: few of them, each entry moved rarely.
        while segments and len(segments[-1][0]) < 2 * len(keys):
            keys, positions = _merged(segments.pop(), (keys, positions))
        self.segments = (*segments, (keys, positions))

    def find(self, first: int, count: int) -> list[Entry]:
        """Return the entries that share a track with the range, ascending."""
        found: list[Entry] = []
        for keys, positions in self.segments:
            # The entry before the range may reach into it; none before that can.
            low = int(keys.searchsorted((first + 1) << COUNT_BITS)) - 1
            high = int(keys.searchsorted((first + count) << COUNT_BITS))
            low = max(low, 0)
            if low < high:
                _collect(
                    keys[low:high].tolist(), positions[low:high].tolist(), first, found
                )
        if len(self.segments) > 1:
            found.sort()
        return found

    def next_entry(self, first: int) -> int | None:
        """Return the first track from `first` on that an entry holds, or None."""
        nearest: int | None = None
        for keys, _ in self.segments:
            low = int(keys.searchsorted((first + 1) << COUNT_BITS)) - 1
            for key in keys[max(low, 0) : low + 2].tolist():
                start, tracks = key >> COUNT_BITS, key & COUNT_MASK
                if start + tracks > first:
                    at = max(start, first)
                    nearest = at if nearest is None else min(nearest, at)
        return nearest


def _collect(
    keys: list[int], positions: list[int], first: int, found: list[Entry]
) -> None:
    for key, position in zip(keys, positions, strict=True):
        start, tracks = key >> COUNT_BITS, key & COUNT_MASK
        if start + tracks > first:
            found.append((start, tracks, position))


def _merged(one: Segment, other: Segment) -> Segment:
    keys = np.concatenate((one[0], other[0]))
    order = np.argsort(keys, kind="stable")
    return keys[order], np.concatenate((one[1], other[1]))[order]


class SealedIndex:
    """An `.index` file opened for lookups; memory: 8 bytes for 255 entries."""

    def __init__(self, file: File, fences: list[int], entry_count: int) -> None:
        self._file = file
        self._fences = fences
        self.entry_count = entry_count

    @classmethod
    def open(
        cls, files: Files, path: str, relation_id: bytes, journal_bytes: int
    ) -> SealedIndex:
        """Open an index of just this journal at just this length.

        Raises `IndexDamagedError` when it is missing, another's or not whole.
        """
        if not files.exists(path):
            raise IndexDamagedError(path)
        file = files.open(path, read_only=True)
        try:
            return cls._opened(file, path, relation_id, journal_bytes)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _opened(
        cls, file: File, path: str, relation_id: bytes, journal_bytes: int
    ) -> SealedIndex:
        size = file.size()
        block = file.read(0, BLOCK_BYTES) if size >= BLOCK_BYTES else bytes(BLOCK_BYTES)
        magic, version, crc, relation, pages, entries, length, fences_crc = (
            _HEADER.unpack_from(block)
        )
        whole = zlib.crc32(block[:12] + b"\0\0\0\0" + block[16:]) == crc
        if (magic, version, relation, length, whole) != (
            INDEX_MAGIC,
            FORMAT_VERSION,
            relation_id,
            journal_bytes,
            True,
        ) or size < (1 + pages) * BLOCK_BYTES + 8 * pages:
            raise IndexDamagedError(path)
        fences = file.read((1 + pages) * BLOCK_BYTES, 8 * pages) if pages else b""
        if zlib.crc32(fences) != fences_crc:
            raise IndexDamagedError(path)
        return cls(file, list(struct.unpack(f"<{pages}q", fences)), entries)

    def find(self, first: int, count: int) -> list[Entry]:
        """Return the entries that share a track with the range, ascending.

        May block. Raises `IndexDamagedError` at a page that fails its checksum.
        """
        low = max(0, bisect.bisect_left(self._fences, (first + 1) << COUNT_BITS) - 1)
        high = bisect.bisect_left(self._fences, (first + count) << COUNT_BITS)
        end_key = (first + count) << COUNT_BITS
        found: list[Entry] = []
        for page in range(low, high):
            keys, positions = self._page(page)
            stop = bisect.bisect_left(keys, end_key)
            _collect(keys[:stop], positions[:stop], first, found)
        return found

    def next_entry(self, first: int) -> int | None:
        """Return the first track from `first` on that an entry holds, or None.

        May block. Raises as `find` does.
        """
        low = max(0, bisect.bisect_left(self._fences, (first + 1) << COUNT_BITS) - 1)
        for page in range(low, min(low + 2, len(self._fences))):
            for key in self._page(page)[0]:
                start, tracks = key >> COUNT_BITS, key & COUNT_MASK
                if start + tracks > first:
                    return max(start, first)
        return None

    def _page(self, page: int) -> tuple[list[int], list[int]]:
        data = self._file.read((1 + page) * BLOCK_BYTES, BLOCK_BYTES)
        crc, count = struct.unpack_from("<II", data)
        if zlib.crc32(data[4:]) != crc or count > PAGE_ENTRIES:
            raise IndexDamagedError(self._file.path)
        numbers = np.frombuffer(data, "<i8", 2 * count, 8)
        return numbers[0::2].tolist(), numbers[1::2].tolist()

    def close(self) -> None:
        self._file.close()


def write_index(
    files: Files, path: str, relation_id: bytes, journal_bytes: int, index: OpenIndex
) -> None:
    """Write the `.index` of a finished journal.

    Order: pages and fences, fdatasync, header, fdatasync. The crash it defends
    against: a header that vouches for pages which never reached the disk. The
    directory is not synced: an index that is missing is made again.
    """
    keys = np.empty(0, np.int64)
    positions = np.empty(0, np.int64)
    for segment in index.segments:
        keys, positions = _merged((keys, positions), segment)
    pages = -(-len(keys) // PAGE_ENTRIES)
    file = files.open(path, create=True)
    try:
        file.truncate(0)
        for start in range(0, pages, _WRITE_PAGES):
            data = [
                _format_page(keys, positions, page)
                for page in range(start, min(start + _WRITE_PAGES, pages))
            ]
            file.write((1 + start) * BLOCK_BYTES, b"".join(data))
        fences = keys[::PAGE_ENTRIES].astype("<i8").tobytes()
        file.write((1 + pages) * BLOCK_BYTES, fences)
        file.datasync()
        fields = (relation_id, pages, len(keys), journal_bytes, zlib.crc32(fences))
        file.write(0, _format_header(*fields))
        file.datasync()
    finally:
        file.close()


def _format_page(keys: Numbers, positions: Numbers, page: int) -> bytes:
    start, end = page * PAGE_ENTRIES, min((page + 1) * PAGE_ENTRIES, len(keys))
    numbers = np.empty(2 * (end - start), "<i8")
    numbers[0::2] = keys[start:end]
    numbers[1::2] = positions[start:end]
    rest = struct.pack("<I", end - start) + numbers.tobytes()
    rest = rest.ljust(BLOCK_BYTES - 4, b"\0")
    return struct.pack("<I", zlib.crc32(rest)) + rest


def _format_header(
    relation_id: bytes, pages: int, entries: int, journal_bytes: int, fences_crc: int
) -> bytes:
    def packed(crc: int) -> bytes:
        return _HEADER.pack(
            INDEX_MAGIC,
            FORMAT_VERSION,
            crc,
            relation_id,
            pages,
            entries,
            journal_bytes,
            fences_crc,
        ).ljust(BLOCK_BYTES, b"\0")

    return packed(zlib.crc32(packed(0)))
