"""A bitmap's durable copy, page by page, each page in two slots.

Layout: page p has two slots of 4 KiB at 2p and 2p + 1. A slot: magic 8s, tag 16s,
page u32, sequence u32, stamp u32, crc32 u32 (of the slot with this field 0), then
4056 bytes of bits. A save goes to the slot that is not the newest and takes the
next sequence, so a torn or trashed write leaves the page as it was before.
`tag` binds bits to something (acked bits to the remote's relation): slots of
another tag count as clear. `stamp` is a number of the caller's that only grows under
one tag. A slot never written is all zeroes, a clear page. All slots have their room
from the start: a full file system never fails a save, on which hosts' writes wait.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from common.ports import File, Files
from common.storage.bitmap import Bitmap

MAGIC = b"FSHBITS1"
SLOT_BYTES = 4096
_HEADER = struct.Struct("<8s16sIIII")
PAGE_BYTES = 4056
PAGE_BITS = 8 * PAGE_BYTES
NO_TAG = bytes(16)

assert _HEADER.size + PAGE_BYTES == SLOT_BYTES

_EMPTY_SLOT = bytes(SLOT_BYTES)
_LOAD_PAGES = 64


def page_of(track: int) -> int:
    return track // PAGE_BITS


class BitmapFile:
    """Synchronous: called from threads, one call at a time.

    `save` makes nothing durable: the caller's order does, with `datasync`.
    """

    def __init__(self, file: File, bit_count: int) -> None:
        self._file = file
        self._bit_count = bit_count
        self._page_count = -(-bit_count // PAGE_BITS)
        self._sequences: dict[int, int] = {}
        self.stamp = 0
        """The highest of the pages last loaded."""

    @classmethod
    def open(cls, files: Files, path: str, bit_count: int) -> BitmapFile:
        """Open it, or create it; raises `StorageError` where there is no room."""
        opened = cls(files.open(path, create=True), bit_count)
        try:
            opened._file.allocate(opened._page_count * 2 * SLOT_BYTES)
        except BaseException:
            opened.close()
            raise
        return opened

    def extend(self, bit_count: int) -> None:
        """Make room, durably, for the pages of a volume that becomes larger.

        Order: the room, fdatasync; only then may a record name the larger volume.
        The crash it defends against: a write into the new area that is answered,
        and whose page then finds no room. A page is as long as before, and what it
        did not hold is clear. Raises `StorageError`; the file works on as it was.
        """
        assert bit_count >= self._bit_count
        page_count = -(-bit_count // PAGE_BITS)
        self._file.allocate(page_count * 2 * SLOT_BYTES)
        self._file.datasync()
        self._bit_count, self._page_count = bit_count, page_count

    def load(self, tag: bytes = NO_TAG, *, when_damaged: bool) -> Bitmap:
        """Return the bits as they were last saved under `tag`.

        fdatasync comes first: what is trusted now must outlive a power loss.
        A page with no whole slot where there was one (no crash of ours explains
        it) reads as `when_damaged`: the answer that loses nothing.
        """
        self._file.datasync()
        self._file.drop_cache()  # a slot whose flush failed is in memory only
        bitmap = Bitmap(self._bit_count)
        self.stamp = 0
        offset, end_of_slots = 0, self._page_count * 2 * SLOT_BYTES
        for length, is_hole in _all_extents(self._file, end_of_slots):
            if not is_hole:
                first = offset // (2 * SLOT_BYTES)
                end = -(-(offset + length) // (2 * SLOT_BYTES))
                self._load_pages(bitmap, first, end, tag, when_damaged)
            offset += length
        bitmap.recount()
        return bitmap

    def _load_pages(
        self, bitmap: Bitmap, first: int, end: int, tag: bytes, when_damaged: bool
    ) -> None:
        for start in range(first, end, _LOAD_PAGES):
            count = min(_LOAD_PAGES, end - start)
            data = self._file.read(start * 2 * SLOT_BYTES, count * 2 * SLOT_BYTES)
            for i in range(count):
                pair = data[i * 2 * SLOT_BYTES : (i + 1) * 2 * SLOT_BYTES]
                self._load_page(bitmap, start + i, pair, tag, when_damaged)

    def _load_page(
        self, bitmap: Bitmap, page: int, pair: bytes, tag: bytes, when_damaged: bool
    ) -> None:
        slots = pair[:SLOT_BYTES], pair[SLOT_BYTES:]
        whole = [s for s in (parse_slot(page, slot) for slot in slots) if s]
        at = page * PAGE_BYTES
        size = min(PAGE_BYTES, len(bitmap.data) - at)
        if whole:
            sequence, found_tag, stamp, bits = max(whole, key=lambda slot: slot[0])
            self._sequences[page] = sequence
            if found_tag == tag:
                self.stamp = max(self.stamp, stamp)
                bitmap.data[at : at + size] = bits[:size]
        elif all(slot != _EMPTY_SLOT for slot in slots) and when_damaged:
            first = page * PAGE_BITS
            bitmap.set_range(first, min(PAGE_BITS, self._bit_count - first))

    def save(
        self, pages: Mapping[int, bytes], tag: bytes = NO_TAG, stamp: int = 0
    ) -> None:
        """Write pages (number: up to `PAGE_BYTES` of bits), each to its older slot."""
        for page, bits in pages.items():
            assert 0 <= page < self._page_count
            sequence = self._sequences.get(page, 0) + 1
            slot = format_slot(page, sequence, tag, bits, stamp)
            self._file.write((2 * page + (sequence & 1)) * SLOT_BYTES, slot)
            self._sequences[page] = sequence

    def datasync(self) -> None:
        self._file.datasync()

    def close(self) -> None:
        self._file.close()


def _all_extents(file: File, length: int) -> list[tuple[int, bool]]:
    found: list[tuple[int, bool]] = []
    offset = 0
    while offset < length:
        for size, is_hole in file.extents(offset, length - offset):
            found.append((size, is_hole))
            offset += size
    return found


def format_slot(
    page: int, sequence: int, tag: bytes, bits: bytes, stamp: int = 0
) -> bytes:
    body = bits.ljust(PAGE_BYTES, b"\0")
    header = _HEADER.pack(MAGIC, tag, page, sequence, stamp, 0)
    crc = zlib.crc32(body, zlib.crc32(header))
    return _HEADER.pack(MAGIC, tag, page, sequence, stamp, crc) + body


def parse_slot(page: int, slot: bytes) -> tuple[int, bytes, int, bytes] | None:
    """Return (sequence, tag, stamp, bits), or None if the slot is not whole."""
    magic, tag, found_page, sequence, stamp, crc = _HEADER.unpack_from(slot)
    if (magic, found_page) != (MAGIC, page):
        return None
    header = _HEADER.pack(magic, tag, found_page, sequence, stamp, 0)
    if zlib.crc32(slot[_HEADER.size :], zlib.crc32(header)) != crc:
        return None
    return sequence, tag, stamp, slot[_HEADER.size :]
