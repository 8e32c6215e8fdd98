"""The bytes of a journal, field by field, made here without the code under test."""

from __future__ import annotations

import random
import struct
import zlib

import zstandard

from common.storage.journal_format import (
    JournalHeader,
    OldRun,
    format_batch,
    format_header,
)
from common.storage.record import format_slot

HEADER = JournalHeader(
    group_id=b"g" * 16,
    volume_id=b"v" * 16,
    relation_id=b"r" * 16,
    point_number=7,
    size_bytes=10 * 4096 - 512,
    track_bytes=4096,
)


def sealed(fields: bytes, crc_at: int, seed: int, rest: bytes = b"") -> bytes:
    """Put the crc32 of `fields` (0 in its place) and `rest` at `crc_at`."""
    crc = zlib.crc32(rest, zlib.crc32(fields, seed))
    return fields[:crc_at] + struct.pack("<I", crc) + fields[crc_at + 4 :]


def test_header_block() -> None:
    fields = b"FSHJRNL1" + struct.pack("<IIQQII", 1, 0, 7, 10 * 4096 - 512, 4096, 0)
    fields += b"g" * 16 + b"v" * 16 + b"r" * 16
    assert format_header(HEADER) == sealed(fields.ljust(4096, b"\0"), 12, 0)


def test_batch_of_a_record_of_each_encoding() -> None:
    seed = zlib.crc32(b"r" * 16)
    noise = random.Random(1).randbytes(4096)
    last = bytes(4096 - 512)
    packed = zstandard.ZstdCompressor(level=1).compress(last)

    def record(
        first: int, count: int, encoding: int, size: int, stored: bytes
    ) -> bytes:
        fields = struct.pack("<QIB3xIII", first, count, encoding, size, len(stored), 0)
        return sealed(fields, 24, seed, stored) + stored

    body = record(2, 6, 0, 0, b"") + record(8, 1, 1, 4096, noise)
    body += record(9, 1, 2, len(last), packed)
    fields = b"FSHBATC1" + struct.pack("<QIIII", 3, len(body), 3, 0, 0)
    expected = sealed(fields, 24, seed, body) + body
    runs = [OldRun(2, 6, None), OldRun(8, 1, noise), OldRun(9, 1, last)]
    batch, entries = format_batch(HEADER, 3, 8192, runs)
    assert batch == expected.ljust(8192, b"\0")
    at = 8192 + 32
    assert entries == [(2, 6, at), (8, 1, at + 28), (9, 1, at + 56 + 4096)]


def test_record_slot() -> None:
    body = b"\x81\xa1a\x01"  # msgpack {"a": 1}
    fields = b"FSHRECD1" + struct.pack("<IIQI", 1, len(body), 5, 0)
    expected = sealed(fields, 24, 0, body) + body
    assert format_slot(5, {"a": 1}) == expected.ljust(4096, b"\0")
