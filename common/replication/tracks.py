"""Records of a TRACKS payload: runs of tracks on their way to the secondary volume.

Pure apart from zstd and the hashes. The payload is one byte that says how the
rest is stored (0 plain, 1 one zstd frame, 2 one zstd frame with all headers first,
see `gathered.py`; 3 is for `referenced.py`), then the records, each a header of 50
bytes, little-endian, and its data:

    offset  size  field
         0     8  first track
         8     4  count of tracks
        12     1  encoding: 0 ZERO, 1 RAW, 2 XOR (with the feature "delta" only)
        13     1  flags, 0
        14    16  xxh3_128 of the base that XOR needs, zeroes for the others
        30    16  xxh3_128 of the run's bytes at the end, zeroes for ZERO
        46     4  data length: 0 for ZERO, and for XOR where base and end are equal

The last track of a volume is cut at the volume's size. Both sides may take
milliseconds for a payload: call them in a thread.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import xxhash
import zstandard

from common.errors import ProtocolError
from common.ports import Buffer
from common.replication.cycle_messages import (
    COVERED_BYTES_MAX,
    HASH_BYTES,
    RAW_BYTES_MAX,
    ZERO_BYTES_MAX,
    Encoding,
)
from common.replication.gathered import COUNT_BYTES, gather, part
from common.replication.unpacking import decompressed

_HEADER = struct.Struct("<QIBB16s16sI")
RECORD_HEADER_BYTES = _HEADER.size
assert RECORD_HEADER_BYTES == 50

_PLAIN = b"\x00"
_ZSTD = b"\x01"
_GATHERED = b"\x02"
_NO_HASH = bytes(HASH_BYTES)


@dataclass(frozen=True, slots=True)
class RunData:
    """A run to be sent: `data` its bytes, or None where all of them are zero."""

    first: int
    count: int
    data: Buffer | None


@dataclass(frozen=True, slots=True)
class DeltaRun:
    """A run to be sent as what differs from its base; empty where nothing does.

    `difference` is the XOR of both, as long as the run. The hashes are `run_hash`
    of the run as the receiver holds it, and as it is to be.
    """

    first: int
    count: int
    difference: Buffer
    base_hash: bytes
    result_hash: bytes


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """One received run, verified: safe to apply, unless it is XOR.

    `data` is None for ZERO, else the run's bytes (the last track cut at the
    volume's size), a view into memory shared by the records of one payload.
    `result_hash` is the xxh3_128 of these bytes, zeroes for ZERO. Of XOR `data` is
    the difference to the base, None for none, and nothing is verified before the
    base is there: see `remote_site.bases`.
    """

    first: int
    count: int
    encoding: Encoding
    data: memoryview | None
    result_hash: bytes
    base_hash: bytes = _NO_HASH


def run_hash(data: Buffer) -> bytes:
    """Return the 16 bytes that guard a run from end to end (no defence: no key)."""
    return xxhash.xxh3_128_digest(data)


def track_hash(data: Buffer) -> bytes:
    """Return the 16 bytes by which two sites compare a track without sending it."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def encode_records(
    records: Sequence[RunData | DeltaRun],
    level: int | None,
    *,
    gathered: bool = False,
) -> tuple[bytes, int]:
    """Return a payload and its `raw_bytes`; `level` None leaves zstd out.

    The caller keeps records and data within `RAW_BYTES_MAX` and what they cover
    within `ZERO_BYTES_MAX`. Incompressible records are stored plain. `gathered`
    (with the feature "delta" only) puts what is packed in the shorter order.
    """
    headers, parts = headers_and_data(records)
    plain_bytes = sum(map(len, headers)) + sum(memoryview(p).nbytes for p in parts)
    assert 0 < plain_bytes <= RAW_BYTES_MAX - COUNT_BYTES, plain_bytes

    def plain(*before: bytes) -> bytes:
        in_order = itertools.chain.from_iterable(zip(headers, parts, strict=True))
        return b"".join((*before, *in_order))

    if level is None:
        return plain(_PLAIN), plain_bytes
    storage = _GATHERED if gathered else _ZSTD
    raw = b"".join([gather(headers), *parts]) if gathered else plain()
    # One compressor a call: they are not safe across threads, and cheap beside
    # what they compress. The frame states its size: the decoder insists on it.
    packed = zstandard.ZstdCompressor(level=level).compress(raw)
    if len(packed) >= plain_bytes:
        return plain(_PLAIN), plain_bytes
    return storage + packed, len(raw)


def headers_and_data(
    records: Sequence[RunData | DeltaRun],
) -> tuple[list[bytes], list[Buffer]]:
    """Return each record's header, and its data."""
    headers: list[bytes] = []
    parts: list[Buffer] = []
    for record in records:
        data = record.data if isinstance(record, RunData) else record.difference
        data = b"" if data is None else data
        headers.append(_header(record, memoryview(data).nbytes))
        parts.append(data)
    return headers, parts


def _header(record: RunData | DeltaRun, length: int) -> bytes:
    base_hash = _NO_HASH
    if isinstance(record, DeltaRun):
        encoding = Encoding.XOR
        base_hash, result_hash = record.base_hash, record.result_hash
    elif record.data is None:
        encoding, result_hash = Encoding.ZERO, _NO_HASH
    else:
        encoding, result_hash = Encoding.RAW, run_hash(record.data)
    return _HEADER.pack(
        record.first, record.count, encoding, 0, base_hash, result_hash, length
    )


def decode_records(
    payload: Buffer,
    raw_bytes: int,
    geometry_size_bytes: int,
    track_bytes: int,
    *,
    delta: bool = False,
) -> list[TrackRecord]:
    """Return the records of a payload for a volume of this size, all verified.

    Everything is checked before anything is returned: lengths, ranges inside the
    volume, no track twice, each run's hash; but that of XOR, which `delta` (the
    feature was agreed) lets pass. Raises `ProtocolError`.
    """
    storage, raw = _unpacked(memoryview(payload), raw_bytes)
    if storage == _GATHERED and not delta:
        raise ProtocolError("TRACKS: records are stored as was not agreed")
    parts = _gathered_parts(raw) if storage == _GATHERED else _parts(raw)
    return checked_records(parts, geometry_size_bytes, track_bytes, delta=delta)


def checked_records(
    parts: Iterable[tuple[Header, memoryview]],
    geometry_size_bytes: int,
    track_bytes: int,
    *,
    delta: bool,
) -> list[TrackRecord]:
    """Return the records that headers and data make, as `decode_records` does."""
    shape = geometry_size_bytes, track_bytes
    records: list[TrackRecord] = []
    covered = compared = 0
    for header, data in parts:
        run_bytes = _run_bytes(header, *shape)
        covered += header[1]
        if covered * track_bytes > ZERO_BYTES_MAX:
            raise ProtocolError("TRACKS: one frame covers too much")
        record = _record(header, data, run_bytes, delta=delta)
        if record.encoding == Encoding.XOR:
            compared += run_bytes
            if run_bytes > RAW_BYTES_MAX or compared > COVERED_BYTES_MAX:
                raise ProtocolError("TRACKS: one frame has too much compared")
        records.append(record)
    _refuse_overlaps((record.first, record.count) for record in records)
    return records


def check_runs(
    headers: Sequence[Header], geometry_size_bytes: int, track_bytes: int
) -> list[tuple[int, int]]:
    """Return the runs that headers name, ascending, all of them of the volume."""
    for header in headers:
        _run_bytes(header, geometry_size_bytes, track_bytes)
    return _refuse_overlaps((header[0], header[1]) for header in headers)


def _run_bytes(header: Header, size_bytes: int, track_bytes: int) -> int:
    first, count = header[0], header[1]
    if not count or first + count > -(-size_bytes // track_bytes):
        raise ProtocolError(f"TRACKS: run {first}+{count} is not of this volume")
    return min(count * track_bytes, size_bytes - first * track_bytes)


Header = tuple[int, int, int, int, bytes, bytes, int]


def _parts(raw: memoryview) -> Iterator[tuple[Header, memoryview]]:
    position = 0
    while position < len(raw):  # ends: each turn consumes a header at least
        if len(raw) - position < RECORD_HEADER_BYTES:
            raise ProtocolError("TRACKS: a record is cut short")
        header: Header = _HEADER.unpack_from(raw, position)
        position += RECORD_HEADER_BYTES
        data = raw[position : position + header[6]]
        if len(data) < header[6]:
            raise ProtocolError("TRACKS: a record's data is cut short")
        position += header[6]
        yield header, data


def _gathered_parts(raw: memoryview) -> Iterator[tuple[Header, memoryview]]:
    headers, rest = part(raw, RECORD_HEADER_BYTES)
    yield from split_data(parsed_headers(headers), rest)


def parsed_headers(table: bytes) -> list[Header]:
    """Return the headers that stand in it one after the other."""
    return list(_HEADER.iter_unpack(table))


def split_data(
    headers: Iterable[Header], rest: memoryview
) -> Iterator[tuple[Header, memoryview]]:
    """Yield each header with its data, of which nothing may be left over."""
    for header in headers:
        data, rest = rest[: header[6]], rest[header[6] :]
        if len(data) < header[6]:
            raise ProtocolError("TRACKS: a record's data is cut short")
        yield header, data
    if len(rest):
        raise ProtocolError("TRACKS: data of no record")


def _unpacked(payload: memoryview, raw_bytes: int) -> tuple[bytes, memoryview]:
    if not 0 < raw_bytes <= RAW_BYTES_MAX:
        raise ProtocolError(f"TRACKS: raw length {raw_bytes} is out of bounds")
    storage, body = bytes(payload[:1]), payload[1:]
    if storage == _PLAIN:
        raw = body
    elif storage in {_ZSTD, _GATHERED}:
        raw = memoryview(decompressed(body, raw_bytes))
    else:
        raise ProtocolError("TRACKS: unknown storage of records")
    if len(raw) != raw_bytes:
        raise ProtocolError("TRACKS: raw length is not as announced")
    return storage, raw


def _record(
    header: Header,
    data: memoryview,
    run_bytes: int,
    *,
    delta: bool,
) -> TrackRecord:
    first, count, encoding, flags, base_hash, result_hash, length = header
    if flags:
        raise ProtocolError("TRACKS: a record uses a feature that was not agreed")
    if encoding == Encoding.XOR and delta:
        is_equal = base_hash == result_hash
        if length != (0 if is_equal else run_bytes):
            raise ProtocolError(
                f"TRACKS: a difference of {run_bytes} bytes has {length}"
            )
        difference = None if is_equal else data
        return TrackRecord(
            first, count, Encoding.XOR, difference, result_hash, base_hash
        )
    if base_hash != _NO_HASH:
        raise ProtocolError("TRACKS: a record uses a feature that was not agreed")
    if encoding == Encoding.ZERO:
        if length or result_hash != _NO_HASH:
            raise ProtocolError("TRACKS: a record of zeroes carries data")
        return TrackRecord(first, count, Encoding.ZERO, None, _NO_HASH)
    if encoding != Encoding.RAW:
        raise ProtocolError(f"TRACKS: unknown encoding {encoding}")
    if length != run_bytes:
        raise ProtocolError(f"TRACKS: run of {run_bytes} bytes has {length}")
    if run_hash(data) != result_hash:
        raise ProtocolError(f"TRACKS: run {first}+{count} fails its hash")
    return TrackRecord(first, count, Encoding.RAW, data, result_hash)


def _refuse_overlaps(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the runs, ascending."""
    end = 0
    ascending = sorted(runs)
    for first, count in ascending:
        if first < end:
            raise ProtocolError(f"TRACKS: track {first} comes twice in one frame")
        end = first + count
    return ascending
