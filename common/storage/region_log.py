"""The region log: which regions may hold writes that no durable bitmap knows of.

A region is on disk as hot before the first write into it begins, so that after
a crash changed tracks are a subset of (durable bitmaps, tracks of hot regions).

Layout (little endian): two areas of `AREA_BLOCKS` blocks of 4 KiB, used in
turn. A block: magic 8s, generation u64, index u32, snapshot blocks u32, heated
u16, cooled u16, crc32 u32 (of the block with this field 0), then `heated` and
`cooled` region numbers as u64. The first blocks of an area are a snapshot of
the hot set; each later block is one transaction: cooled taken out, heated put
in. Every block is one transaction on a 4 KiB boundary of its own, so that a torn
append cannot hurt an earlier durable one; nothing is assumed of sectors.

Both areas have their room from the start: hosts wait for this log, and a full file
system must not fail them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterable

from common.ports import File, Files

MAGIC = b"FSHREGN1"
BLOCK_BYTES = 4096
AREA_BLOCKS = 512
_HEADER = struct.Struct("<8sQIIHHI")
_EMPTY_BLOCK = bytes(BLOCK_BYTES)
NUMBERS_PER_BLOCK = (BLOCK_BYTES - _HEADER.size) // 8

HOT_REGIONS_MAX = 64 * 1024
"""A snapshot of this many leaves three quarters of an area for transactions."""

assert -(-HOT_REGIONS_MAX // NUMBERS_PER_BLOCK) < AREA_BLOCKS // 2


class RegionLog:
    """The durable hot set of one volume; called from threads, one call at a time."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.hot: set[int] = set()
        self._generation = 0
        self._snapshot_blocks = 0
        self._next_block = AREA_BLOCKS
        """At the end: the first transaction after a start opens the other area, so
        nothing is ever appended behind a block that a crash may have torn."""

    @classmethod
    def open(cls, files: Files, path: str) -> RegionLog:
        """Open or create the log, and load what a crash may have left hot.

        Order: fdatasync, then read. A killed process leaves blocks in the page
        cache that a power loss could still take, and what is trusted now must
        not be gone then. Last, what a snapshot cut short has left is wiped. Raises
        `StorageError`, also where there is no room.
        """
        log = cls(files.open(path, create=True))
        try:
            log._file.allocate(2 * AREA_BLOCKS * BLOCK_BYTES)
            log._file.datasync()
            log._file.drop_cache()  # a block whose flush failed is in memory only
            log._load()
            log._wipe_remnants()
        except BaseException:
            log.close()
            raise
        return log

    def _load(self) -> None:
        areas = [self._load_area(area) for area in (0, 1)]
        self._generation, self.hot = max(areas, key=lambda found: found[0])

    def _load_area(self, area: int) -> tuple[int, set[int]]:
        """Return (generation, or 0 if its snapshot is not whole, and hot set)."""
        length = AREA_BLOCKS * BLOCK_BYTES
        data = self._file.read(area * length, length)
        hot: set[int] = set()
        generation = snapshot = index = 0
        while (index + 1) * BLOCK_BYTES <= len(data):
            block = parse_block(data[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES])
            if block is None:
                break
            found, found_index, found_snapshot, heated, cooled = block
            if index == 0:
                generation, snapshot = found, found_snapshot
            if (found, found_index, found_snapshot) != (generation, index, snapshot):
                break
            hot.difference_update(cooled)
            hot.update(heated)
            index += 1
        if index < max(snapshot, 1) or generation & 1 != area:
            return 0, set()
        return generation, hot

    def _wipe_remnants(self) -> None:
        """Leave nothing of a snapshot that never became whole.

        Order: zeroes over its blocks, fdatasync; only then may anything be written
        into a region that was left hot. The crash it defends against: the next
        snapshot goes to the same blocks, is cut short in its turn, and its sectors
        make the earlier one whole: a hot set of before this start, without regions
        that were cooling then and have been written since. Up to here it may come
        back, as nothing was written since.
        """
        length = AREA_BLOCKS * BLOCK_BYTES
        start = (1 - (self._generation & 1)) * length
        data = self._file.read(start, length)
        is_clean = True
        for offset in range(0, length, BLOCK_BYTES):
            block = data[offset : offset + BLOCK_BYTES]
            found = parse_block(block)
            is_older = found is not None and found[0] < self._generation
            if not is_older and block != _EMPTY_BLOCK:
                self._file.write(start + offset, _EMPTY_BLOCK)
                is_clean = False
        if not is_clean:
            self._file.datasync()

    def write(self, heated: Collection[int], cooled: Iterable[int]) -> None:
        """Make `cooled` cold and `heated` hot, durably, in that order.

        Order: transaction blocks, fdatasync, return. The crash it defends
        against: a host write that reached the device in a region which no
        bitmap and no log names; its change would be lost for ever. Cooling is
        lazy: a region forgotten here costs a comparison, never data.
        """
        cooled = set(cooled) & self.hot
        heated = set(heated)
        assert len((self.hot - cooled) | heated) <= HOT_REGIONS_MAX
        changes = [(number, True) for number in cooled - heated]
        changes += [(number, False) for number in heated - self.hot]
        blocks_needed = -(-len(changes) // NUMBERS_PER_BLOCK)
        if not changes:
            return
        hot = (self.hot - cooled) | heated
        if self._next_block + blocks_needed > AREA_BLOCKS:
            self._write_snapshot(hot)
        else:
            self._write_blocks(changes)
        self._file.datasync()
        self.hot = hot

    def _write_blocks(self, changes: list[tuple[int, bool]]) -> None:
        start = self._area_offset() + self._next_block * BLOCK_BYTES
        blocks: list[bytes] = []
        for at in range(0, len(changes), NUMBERS_PER_BLOCK):
            part = changes[at : at + NUMBERS_PER_BLOCK]
            heated = [number for number, cold in part if not cold]
            cooled = [number for number, cold in part if cold]
            blocks.append(self._block(self._next_block + len(blocks), heated, cooled))
        self._file.write(start, b"".join(blocks))
        self._next_block += len(blocks)

    def _write_snapshot(self, hot: set[int]) -> None:
        """Write the hot set to the other area: the old one stays until then."""
        self._generation += 1
        numbers = sorted(hot)
        count = max(1, -(-len(numbers) // NUMBERS_PER_BLOCK))
        self._snapshot_blocks = count
        blocks = [
            self._block(
                i, numbers[i * NUMBERS_PER_BLOCK : (i + 1) * NUMBERS_PER_BLOCK], []
            )
            for i in range(count)
        ]
        self._file.write(self._area_offset(), b"".join(blocks))
        self._next_block = count

    def _area_offset(self) -> int:
        return (self._generation & 1) * AREA_BLOCKS * BLOCK_BYTES

    def _block(self, index: int, heated: list[int], cooled: list[int]) -> bytes:
        return format_block(
            self._generation, index, self._snapshot_blocks, heated, cooled
        )

    def close(self) -> None:
        self._file.close()


def format_block(
    generation: int, index: int, snapshot: int, heated: list[int], cooled: list[int]
) -> bytes:
    """Return one block; see the layout at the head of this module."""
    numbers = struct.pack(f"<{len(heated) + len(cooled)}Q", *heated, *cooled)
    fields = (MAGIC, generation, index, snapshot, len(heated), len(cooled))
    block = (_HEADER.pack(*fields, 0) + numbers).ljust(BLOCK_BYTES, b"\0")
    return (_HEADER.pack(*fields, zlib.crc32(block)) + numbers).ljust(
        BLOCK_BYTES, b"\0"
    )


Block = tuple[int, int, int, tuple[int, ...], tuple[int, ...]]


def parse_block(block: bytes) -> Block | None:
    """Return (generation, index, snapshot, heated, cooled), or None if not whole."""
    magic, generation, index, snapshot, heated, cooled, crc = _HEADER.unpack_from(block)
    if magic != MAGIC or heated + cooled > NUMBERS_PER_BLOCK:
        return None
    unsigned = block[: _HEADER.size - 4] + b"\0\0\0\0" + block[_HEADER.size :]
    if zlib.crc32(unsigned) != crc:
        return None
    numbers = struct.unpack_from(f"<{heated + cooled}Q", block, _HEADER.size)
    return generation, index, snapshot, numbers[:heated], numbers[heated:]
