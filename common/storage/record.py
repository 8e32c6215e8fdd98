"""One small durable record, replaced as a whole: identity, points, counters.

Layout (little endian): two slots of 64 KiB, at 0 and 65536. A slot: magic 8s,
version u32, length u32, sequence u64, crc32 u32 (of the header with this field 0,
then the body), then `length` bytes of msgpack. Sequence n lies in slot n mod 2, so
a store never touches the slot that holds the newest record: a torn or trashed
write costs that write only. Nothing is assumed of sectors.

The file appears under its name only once it holds a whole record; two bad slots
are therefore damage, never a crash.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import PurePath
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]

from common.errors import CorruptStateError, StateMismatchError, StorageError
from common.ports import Files

MAGIC = b"FSHRECD1"
FORMAT_VERSION = 1
SLOT_BYTES = 64 << 10
BLOCK_BYTES = 4096
_HEADER = struct.Struct("<8sIIQI")
BODY_BYTES_MAX = SLOT_BYTES - _HEADER.size

assert SLOT_BYTES % BLOCK_BYTES == 0


class DurableRecord:
    """Synchronous; called from threads, one call at a time.

    After a failed write or flush no later `store` succeeds: which record the disk
    holds is unknown until the next start reads it again. Only the first store, whose
    file has no name yet, may be tried again.
    """

    def __init__(self, file_path: str, files: Files) -> None:
        self._path = file_path
        self._files = files
        self._sequence: int | None = None
        self.failed: StorageError | None = None

    def load(self) -> dict[str, Any] | None:
        """Return the newest record, or None if none was ever stored.

        fdatasync comes first: a killed process leaves in the page cache what a
        power loss can still take, and what is trusted now must outlive that.
        Raises `CorruptStateError` when neither slot is whole.
        """
        self._sequence = 0
        if not self._files.exists(self._path):
            return None
        # Its directory too: the name may have been given moments before a kill.
        self._files.sync_directory(str(PurePath(self._path).parent))
        file = self._files.open(self._path)
        try:
            file.datasync()
            file.drop_cache()  # a slot whose flush failed is in memory only
            size = min(file.size(), 2 * SLOT_BYTES)
            data = file.read(0, size) if size else b""
        finally:
            file.close()
        if not data:
            return None
        slots = (parse_slot(data[:SLOT_BYTES]), parse_slot(data[SLOT_BYTES:]))
        whole = [slot for slot in slots if slot is not None]
        if not whole:
            raise CorruptStateError(
                f"{self._path}: neither copy of the record is whole; "
                "the disk has lost it: restore this file, or start the group anew"
            )
        version, self._sequence, body = max(whole, key=lambda slot: slot[1])
        if version != FORMAT_VERSION:
            raise StateMismatchError(
                f"{self._path}: record format {version} is not {FORMAT_VERSION}, the "
                "one this farshore reads; run the release that wrote it, or upgrade"
            )
        return self._unpacked(body)

    def _unpacked(self, body: bytes) -> dict[str, Any]:
        try:
            record = msgpack.unpackb(body, raw=False, strict_map_key=False)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise CorruptStateError(f"{self._path}: not a record: {error}") from error
        if not isinstance(record, dict):
            raise CorruptStateError(f"{self._path}: not a record of named values")
        return record

    def store(self, record: dict[str, Any]) -> None:
        """Replace the record, durably, before returning.

        Order: the slot that is not the newest, fdatasync, return; the caller makes
        nothing of it visible earlier. The crash it defends against: a torn write
        that takes the previous record along.
        """
        if self.failed is not None:
            raise self.failed
        if self._sequence is None:
            self.load()
        assert self._sequence is not None
        slot = format_slot(self._sequence + 1, record)
        if self._sequence == 0:
            self._create(slot)
        else:
            self._replace(((self._sequence + 1) & 1) * SLOT_BYTES, slot)
        self._sequence += 1

    def _replace(self, offset: int, slot: bytes) -> None:
        file = self._files.open(self._path)
        try:
            file.write(offset, slot)
            file.datasync()
        except StorageError as error:
            self.failed = error
            raise
        finally:
            file.close()

    def _create(self, slot: bytes) -> None:
        """Give the file its name only when it holds a whole record.

        Order: a file of another name, fdatasync, rename, fsync of the directory.
        The crash it defends against: a first store cut short, which could not be
        told from a record that was lost.
        """
        new = f"{self._path}.new"
        file = self._files.open(new, create=True)
        try:
            file.truncate(0)
            first = b"\0" * SLOT_BYTES + slot  # sequence 1: the second slot
            file.write(0, first.ljust(2 * SLOT_BYTES, b"\0"))
            file.datasync()
        finally:
            file.close()
        try:
            self._files.rename(new, self._path)
            self._files.sync_directory(str(PurePath(self._path).parent))
        except StorageError as error:
            self.failed = error
            raise


def format_slot(sequence: int, record: dict[str, Any]) -> bytes:
    """Return a slot's header and body, padded to whole blocks."""
    body = cast("bytes", msgpack.packb(record, use_bin_type=True))
    assert len(body) <= BODY_BYTES_MAX, f"a record of {len(body)} bytes fits no slot"
    fields = (MAGIC, FORMAT_VERSION, len(body), sequence)
    crc = zlib.crc32(body, zlib.crc32(_HEADER.pack(*fields, 0)))
    slot = _HEADER.pack(*fields, crc) + body
    return slot.ljust(-(-len(slot) // BLOCK_BYTES) * BLOCK_BYTES, b"\0")


def parse_slot(slot: bytes) -> tuple[int, int, bytes] | None:
    """Return (version, sequence, body), or None if the slot is not whole."""
    if len(slot) < _HEADER.size:
        return None
    magic, version, length, sequence, crc = _HEADER.unpack_from(slot)
    if magic != MAGIC or length > len(slot) - _HEADER.size:
        return None
    body = slot[_HEADER.size : _HEADER.size + length]
    header = _HEADER.pack(magic, version, length, sequence, 0)
    if zlib.crc32(body, zlib.crc32(header)) != crc:
        return None
    return version, sequence, bytes(body)
