"""Bytes of a journal: what was on the secondary volume before it was overwritten.

Pure apart from zstd. Little endian. A journal is one header block and then
batches, each on a 4 KiB boundary of its own and padded to the next, so that a
torn append cannot hurt an earlier batch.

    header  8s magic, u32 version, u32 crc32, u64 point number, u64 volume bytes,
            u32 track bytes, u32 spare, 16s group, 16s volume, 16s relation
    batch   8s magic, u64 sequence from 0, u32 body bytes, u32 record count,
            u32 crc32 (relation, this header with 0 here, body), u32 spare
    record  u64 first track, u32 count, u8 encoding, 3 spare, u32 raw bytes,
            u32 stored bytes, u32 crc32 (relation, these fields with 0 here,
            stored bytes), then the stored bytes

The relation goes into every checksum: neither blocks of a deleted journal nor a
host's data that looks like a batch can ever pass for one of this journal's.
"""

from __future__ import annotations

import enum
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from common.errors import CorruptStateError
from common.ports import Buffer
from common.storage.geometry import Geometry

HEADER_MAGIC = b"FSHJRNL1"
BATCH_MAGIC = b"FSHBATC1"
FORMAT_VERSION = 1
BLOCK_BYTES = 4096

_HEADER = struct.Struct("<8sIIQQI4x16s16s16s")
_BATCH = struct.Struct("<8sQIII4x")
_RECORD = struct.Struct("<QIB3xIII")
BATCH_HEADER_BYTES = _BATCH.size
RECORD_HEADER_BYTES = _RECORD.size

RUN_TRACKS_MAX = 64
RUN_BYTES_MAX = 256 << 10
"""A record with data covers no more: one track can be read without unpacking a lot."""

ZERO_TRACKS_MAX = (1 << 24) - 1
"""Tracks of one record of zeroes: what an index entry can count."""

BATCH_RAW_BYTES_MAX = 8 << 20
BATCH_RECORDS_MAX = 16384
BATCH_BODY_BYTES_MAX = BATCH_RAW_BYTES_MAX + BATCH_RECORDS_MAX * RECORD_HEADER_BYTES
"""Bounds what one append holds in memory, and what recovery reads at once."""

COMPRESSION_LEVEL = -1
"""Fast: the receiver waits for it, and old content is soon dropped."""

COMPRESSED_BYTES_MIN = 512
"""Less is not worth a zstd frame."""


class Encoding(enum.IntEnum):
    ZERO = 0
    RAW = 1
    ZSTD = 2


@dataclass(frozen=True, slots=True)
class JournalHeader:
    """Which point's image a journal holds the overwritten tracks of."""

    group_id: bytes
    volume_id: bytes
    relation_id: bytes
    point_number: int
    size_bytes: int
    track_bytes: int

    @property
    def run_tracks_max(self) -> int:
        """Tracks of one record with data; at least one."""
        return max(1, min(RUN_TRACKS_MAX, RUN_BYTES_MAX // self.track_bytes))

    @property
    def track_count(self) -> int:
        return -(-self.size_bytes // self.track_bytes)

    @property
    def geometry(self) -> Geometry:
        """Of the point: its volume may have grown since."""
        return Geometry(self.size_bytes, self.track_bytes, self.track_bytes)

    def run_bytes(self, first: int, count: int) -> int:
        """Return the bytes of a run; the last track is cut at the volume's size."""
        offset = first * self.track_bytes
        return min(count * self.track_bytes, self.size_bytes - offset)


@dataclass(frozen=True, slots=True)
class OldRun:
    """Old content of a run of tracks; `data` None where it reads as zeroes."""

    first: int
    count: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A record as another journal of the same volume has it, packed already."""

    first: int
    count: int
    encoding: int
    raw_bytes: int
    stored: bytes


Entry = tuple[int, int, int]
"""(first track, count, position of the record in the file)."""


def format_header(header: JournalHeader) -> bytes:
    def packed(crc: int) -> bytes:
        return _HEADER.pack(
            HEADER_MAGIC,
            FORMAT_VERSION,
            crc,
            header.point_number,
            header.size_bytes,
            header.track_bytes,
            header.group_id,
            header.volume_id,
            header.relation_id,
        ).ljust(BLOCK_BYTES, b"\0")

    return packed(zlib.crc32(packed(0)))


def parse_header(block: bytes) -> JournalHeader | None:
    """Return a header block's fields, or None if it is not whole."""
    if len(block) != BLOCK_BYTES:
        return None
    magic, version, crc, number, size, track, group, volume, relation = (
        _HEADER.unpack_from(block)
    )
    if (magic, version) != (HEADER_MAGIC, FORMAT_VERSION):
        return None
    if zlib.crc32(block[:12] + b"\0\0\0\0" + block[16:]) != crc:
        return None
    return JournalHeader(group, volume, relation, number, size, track)


def format_batch(
    header: JournalHeader,
    sequence: int,
    position: int,
    runs: Sequence[OldRun | StoredRun],
) -> tuple[bytes, list[Entry]]:
    """Return a padded batch to be written at `position`, and its index entries."""
    assert position % BLOCK_BYTES == 0
    assert 0 < len(runs) <= BATCH_RECORDS_MAX
    seed = zlib.crc32(header.relation_id)
    parts: list[bytes] = []
    entries: list[Entry] = []
    at = position + BATCH_HEADER_BYTES
    for run in runs:
        record, stored = _format_record(header, seed, run)
        entries.append((run.first, run.count, at))
        parts += (record, stored)
        at += len(record) + len(stored)
    body = b"".join(parts)
    assert len(body) <= BATCH_BODY_BYTES_MAX
    fields = (BATCH_MAGIC, sequence, len(body), len(runs))
    crc = zlib.crc32(body, zlib.crc32(_BATCH.pack(*fields, 0), seed))
    batch = _BATCH.pack(*fields, crc) + body
    return batch.ljust(padded(len(batch)), b"\0"), entries


def padded(length: int) -> int:
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


def _format_record(
    header: JournalHeader, seed: int, run: OldRun | StoredRun
) -> tuple[bytes, bytes]:
    encoding, stored, raw_bytes = int(Encoding.ZERO), b"", 0
    if isinstance(run, StoredRun):
        encoding, stored, raw_bytes = run.encoding, run.stored, run.raw_bytes
        if encoding != Encoding.ZERO:
            assert raw_bytes == header.run_bytes(run.first, run.count)
    elif run.data is None:
        assert 0 < run.count <= ZERO_TRACKS_MAX
    else:
        raw_bytes = len(run.data)
        assert 0 < run.count <= header.run_tracks_max
        assert raw_bytes == header.run_bytes(run.first, run.count)
        encoding, stored = _stored(run.data)
    fields = (run.first, run.count, encoding, raw_bytes, len(stored))
    crc = zlib.crc32(stored, zlib.crc32(_RECORD.pack(*fields, 0), seed))
    return _RECORD.pack(*fields, crc), stored


_local = threading.local()


def _stored(data: bytes) -> tuple[Encoding, bytes]:
    if len(data) >= COMPRESSED_BYTES_MIN:
        compressor = getattr(_local, "compressor", None)
        if compressor is None:  # one a thread: they are not safe across threads
            compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
            _local.compressor = compressor
        packed: bytes = compressor.compress(data)
        if len(packed) < len(data):
            return Encoding.ZSTD, packed
    return Encoding.RAW, data


def parse_batch_header(block: bytes) -> tuple[int, int] | None:
    """Return (sequence, body bytes) as a batch header states them, else None."""
    if len(block) < BATCH_HEADER_BYTES:
        return None
    magic, sequence, length, count, _ = _BATCH.unpack_from(block)
    if magic != BATCH_MAGIC or length > BATCH_BODY_BYTES_MAX:
        return None
    if not 0 < count <= BATCH_RECORDS_MAX:
        return None
    return sequence, length


def parse_batch(
    header: JournalHeader, position: int, batch: bytes
) -> list[Entry] | None:
    """Return the entries of a batch (header and body), or None if it is not whole."""
    magic, sequence, length, count, crc = _BATCH.unpack_from(batch)
    seed = zlib.crc32(header.relation_id)
    body = memoryview(batch)[BATCH_HEADER_BYTES:]
    fields = (magic, sequence, length, count)
    if len(body) != length:
        return None
    if zlib.crc32(body, zlib.crc32(_BATCH.pack(*fields, 0), seed)) != crc:
        return None
    entries: list[Entry] = []
    at = 0
    for _ in range(count):
        first, tracks, _, _, stored_bytes, _ = _RECORD.unpack_from(body, at)
        assert first + tracks <= header.track_count, "a record outside of its volume"
        entries.append((first, tracks, position + BATCH_HEADER_BYTES + at))
        at += RECORD_HEADER_BYTES + stored_bytes
    assert at == length, "a batch whose records do not fill it"
    return entries


def parse_record(
    header: JournalHeader, path: str, entry: Entry, data: Buffer
) -> bytes | None:
    """Return the run's old bytes, None for zeroes, of a record that begins `data`.

    Raises `CorruptStateError` if it is not the record that the index names, whole.
    """
    run = parse_stored(header, path, entry, data)
    if run.encoding == Encoding.ZERO:
        return None
    if run.encoding == Encoding.RAW:
        return bytes(run.stored)
    return _unpacked(path, entry[2], run.stored, run.raw_bytes)


def parse_stored(
    header: JournalHeader, path: str, entry: Entry, data: Buffer
) -> StoredRun:
    """Return the record that begins `data`, still packed; raises as `parse_record`."""
    view = memoryview(data)
    first, count, position = entry
    fields = _RECORD.unpack_from(view)
    *described, crc = fields
    found_first, found_count, encoding, raw_bytes, stored_bytes = described
    stored = view[RECORD_HEADER_BYTES : RECORD_HEADER_BYTES + stored_bytes]
    seed = zlib.crc32(header.relation_id)
    if (
        (found_first, found_count) != (first, count)
        or len(stored) != stored_bytes
        or zlib.crc32(stored, zlib.crc32(_RECORD.pack(*described, 0), seed)) != crc
    ):
        raise CorruptStateError(
            f"{path}: the record at byte {position} (tracks {first}+{count}) fails its "
            "checksum; the disk has lost it, and with it this recovery point"
        )
    return StoredRun(first, count, encoding, raw_bytes, bytes(stored))


def _unpacked(path: str, position: int, stored: bytes, raw_bytes: int) -> bytes:
    decompressor = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    try:
        # The size in the frame wins over max_output_size (zstandard issue 332).
        if zstandard.get_frame_parameters(stored).content_size == raw_bytes:
            data: bytes = decompressor.decompress(stored)
            return data
    except zstandard.ZstdError as error:
        raise CorruptStateError(f"{path}: record at byte {position}: {error}") from None
    raise CorruptStateError(f"{path}: record at byte {position} states another size")
