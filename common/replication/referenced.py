"""TRACKS payloads compressed against tracks of the newest point, which both sites have.

Pure apart from zstd and the hashes. What is new in a track often stands elsewhere
already: a database writes whole pages into its log. With the feature "reference" the
sender names such places, in pieces of 4 KiB as they were at the cut before, and their
bytes precede the records' data for the compressor, as its dictionary.

    offset  size  field
         0     1  3
         1     4  length n of the head, little-endian
         5    16  xxh3_128 of the reference, the named pieces' bytes one after the other
        21     n  one zstd frame: the head
      21+n        one zstd frame with the reference as its raw dictionary: the data

The head is the runs of the reference, then the records' headers, both as in
`gathered.py`. A run is the count of pieces between the end of the run before and its
first one (8 bytes) and its own count (4 bytes); the last piece of a volume may be cut.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import zstandard

from common.errors import ProtocolError
from common.ports import Buffer
from common.replication.cycle_messages import RAW_BYTES_MAX
from common.replication.gathered import gather, part
from common.replication.tracks import (
    RECORD_HEADER_BYTES,
    DeltaRun,
    Header,
    RunData,
    TrackRecord,
    check_runs,
    checked_records,
    decode_records,
    headers_and_data,
    parsed_headers,
    run_hash,
    split_data,
)
from common.replication.unpacking import WINDOW_BYTES_MAX, decompressed

Pieces = list[tuple[int, int]]
"""Runs (first, count) of pieces, ascending, that do not overlap."""

PIECE_BYTES = 4 << 10
REFERENCE_BYTES_MAX = 4 << 20
"""Read by the receiver for one frame; with the records' data within one window."""

REFERENCE_PIECES_MAX = REFERENCE_BYTES_MAX // PIECE_BYTES
HEAD_BYTES_MAX = 256 << 10
"""More than the headers of any frame that a sender makes."""

assert REFERENCE_BYTES_MAX + RAW_BYTES_MAX <= WINDOW_BYTES_MAX

LEVEL_OF_SMALL_TABLES = 5
HASH_LOG_MIN = 17

STORAGE = b"\x03"
_START = struct.Struct("<cI16s")
_RUN = struct.Struct("<QI")


@dataclass(frozen=True, slots=True)
class Reference:
    """Places of a volume as at the cut before, and what they hold."""

    pieces: Pieces
    data: bytes


@dataclass(slots=True)
class Decoded:
    """A payload's records, all verified; or what it brought that can't be told.

    `refused`, ascending, is all of it where the reference is not what is held here.
    """

    records: list[TrackRecord]
    refused: list[tuple[int, int]]


Held = Callable[[Pieces], bytes | None]
"""Return what the newest point has in some pieces; None if it has not all of them."""


def encode_referenced(
    records: Sequence[RunData | DeltaRun], reference: Reference, level: int
) -> tuple[bytes, int]:
    """Return a payload and its `raw_bytes`; bounds as of `encode_records`."""
    assert 0 < len(reference.data) <= REFERENCE_BYTES_MAX
    headers, parts = headers_and_data(records)
    head = gather(list(_packed_pieces(reference.pieces))) + gather(headers)
    data = b"".join(parts)
    assert len(head) <= HEAD_BYTES_MAX
    assert data, "a reference for nothing"
    assert len(head) + len(data) <= RAW_BYTES_MAX
    packed_head = zstandard.ZstdCompressor(level=level).compress(head)
    packed = zstandard.ZstdCompressor(
        dict_data=_dictionary(reference.data),
        compression_params=_parameters(level, len(reference.data), len(data)),
    ).compress(data)
    start = _START.pack(STORAGE, len(packed_head), run_hash(reference.data))
    return start + packed_head + packed, len(head) + len(data)


def decode_payload(
    payload: Buffer,
    raw_bytes: int,
    geometry_size_bytes: int,
    track_bytes: int,
    *,
    delta: bool = False,
    held: Held | None = None,
) -> Decoded:
    """Decode a payload of any storage; with a reference only where `held` is given.

    Raises `ProtocolError`, and what `held` raises. Every length is checked before it
    is believed, the reference's hash before anything is made of it.
    """
    view = memoryview(payload)
    if bytes(view[:1]) != STORAGE:
        records = decode_records(
            payload, raw_bytes, geometry_size_bytes, track_bytes, delta=delta
        )
        return Decoded(records, [])
    if held is None:
        raise ProtocolError("TRACKS: records refer to what was not agreed")
    head, reference_hash, body = _head(view, raw_bytes)
    pieces, headers = _parsed_head(head)
    runs = check_runs(headers, geometry_size_bytes, track_bytes)
    reference = held(pieces)
    if reference is None or run_hash(reference) != reference_hash:
        return Decoded([], runs)
    data = decompressed(body, raw_bytes - len(head), _dictionary(reference))
    parts = split_data(headers, memoryview(data))
    return Decoded(
        checked_records(parts, geometry_size_bytes, track_bytes, delta=delta), []
    )


def _head(view: memoryview, raw_bytes: int) -> tuple[bytes, bytes, memoryview]:
    if not 0 < raw_bytes <= RAW_BYTES_MAX:
        raise ProtocolError(f"TRACKS: raw length {raw_bytes} is out of bounds")
    if len(view) < _START.size:
        raise ProtocolError("TRACKS: a reference is cut short")
    _, length, reference_hash = _START.unpack_from(view)
    end = _START.size + length
    if end > len(view):
        raise ProtocolError("TRACKS: a reference is cut short")
    packed = view[_START.size : end]
    try:
        head_bytes = zstandard.get_frame_parameters(packed).content_size
    except zstandard.ZstdError as error:
        raise ProtocolError(f"TRACKS: zstd: {error}") from error
    if not 0 < head_bytes <= min(HEAD_BYTES_MAX, raw_bytes - 1):
        raise ProtocolError("TRACKS: the head of a reference is too long")
    return decompressed(packed, head_bytes), reference_hash, view[end:]


def _parsed_head(head: bytes) -> tuple[Pieces, list[Header]]:
    """Return the reference's runs and the records' headers."""
    table, rest = part(memoryview(head), _RUN.size)
    pieces: Pieces = []
    end = total = 0
    for gap, count in _RUN.iter_unpack(table):
        first = end + gap
        end, total = first + count, total + count
        if not count or total > REFERENCE_PIECES_MAX:
            raise ProtocolError("TRACKS: a reference is empty or too long")
        pieces.append((first, count))
    headers, rest = part(rest, RECORD_HEADER_BYTES)
    if len(rest):
        raise ProtocolError("TRACKS: the head of a reference is too long")
    return pieces, parsed_headers(headers)


def _packed_pieces(pieces: Pieces) -> Iterator[bytes]:
    end = 0
    for first, count in pieces:
        assert first >= end
        yield _RUN.pack(first - end, count)
        end = first + count


def _parameters(
    level: int, reference_bytes: int, data_bytes: int
) -> zstandard.ZstdCompressionParameters:
    """Return a level's, with tables in which the reference has room too.

    The lower levels' own are for the data alone: level 1 found hardly anything.
    """
    larger = {}
    if level <= LEVEL_OF_SMALL_TABLES:
        larger["hash_log"] = max(HASH_LOG_MIN, reference_bytes.bit_length() - 2)
    parameters: zstandard.ZstdCompressionParameters = (
        zstandard.ZstdCompressionParameters.from_level(
            level,
            source_size=data_bytes + reference_bytes,
            window_log=WINDOW_BYTES_MAX.bit_length() - 1,
            **larger,
        )
    )
    return parameters


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
