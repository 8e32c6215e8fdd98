from __future__ import annotations

import hashlib
import random
import struct
import tracemalloc

import pytest
import xxhash
import zstandard

from common.errors import ProtocolError
from common.replication.cycle_messages import RAW_BYTES_MAX, ZERO_BYTES_MAX, Encoding
from common.replication.tracks import (
    RunData,
    decode_records,
    encode_records,
    run_hash,
    track_hash,
)

TRACK = 4096
SIZE = 100 * TRACK + 512
NOISE = random.Random(1).randbytes(3 * TRACK)


def record(
    first: int = 0,
    count: int = 1,
    data: bytes = bytes(TRACK),
    *,
    encoding: int = Encoding.RAW,
    flags: int = 0,
    base: bytes = bytes(16),
    result: bytes | None = None,
    length: int | None = None,
) -> bytes:
    """A record as a peer might write it, right unless told otherwise."""
    if result is None:
        result = run_hash(data) if encoding == Encoding.RAW else bytes(16)
    length = len(data) if length is None else length
    head = struct.pack(
        "<QIBB16s16sI", first, count, encoding, flags, base, result, length
    )
    return head + data


def refuse(raw: bytes, message: str, raw_bytes: int | None = None) -> None:
    for payload in (b"\x00" + raw, b"\x01" + zstandard.compress(raw)):
        with pytest.raises(ProtocolError, match=message):
            decode_records(payload, raw_bytes or len(raw), SIZE, TRACK)


@pytest.mark.parametrize("level", [None, -3, 1, 19])
def test_what_was_encoded_is_decoded(level: int | None) -> None:
    runs = [
        RunData(0, 2, b"a" * 2 * TRACK),
        RunData(5, 40, None),
        RunData(60, 3, memoryview(NOISE)),
        RunData(99, 2, b"z" * (TRACK + 512)),
    ]
    payload, raw_bytes = encode_records(runs, level)
    found = decode_records(payload, raw_bytes, SIZE, TRACK)
    assert [(r.first, r.count) for r in found] == [(r.first, r.count) for r in runs]
    for run, decoded in zip(runs, found, strict=True):
        if run.data is None:
            assert (decoded.encoding, decoded.data) == (Encoding.ZERO, None)
            assert decoded.result_hash == bytes(16)
        else:
            assert decoded.data == run.data
            assert decoded.result_hash == xxhash.xxh3_128_digest(run.data)


def test_zeroes_cost_a_few_bytes_and_noise_hardly_more_than_itself() -> None:
    payload, _ = encode_records([RunData(0, 100, None)], 1)
    assert len(payload) < 60
    payload, raw_bytes = encode_records([RunData(0, 3, NOISE)], 1)
    assert payload[0] == 0
    assert len(payload) == raw_bytes + 1


def test_a_track_hash_is_blake2b_of_16_bytes() -> None:
    assert track_hash(NOISE) == hashlib.blake2b(NOISE, digest_size=16).digest()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (record(count=0, data=b""), "not of this volume"),
        (record(first=101), "not of this volume"),
        (record(first=100, count=2, data=bytes(512)), "not of this volume"),
        (record(first=(1 << 64) - 1), "not of this volume"),
        (record(count=0xFFFFFFFF), "not of this volume"),
        (record(data=bytes(TRACK - 1)), "has 4095"),
        (record(first=100), "run of 512 bytes has 4096"),
        (record(length=TRACK + 1), "cut short"),
        (record(length=0xFFFFFFFF), "cut short"),
        (record() + b"x", "cut short"),
        (record()[:49], "cut short"),
        (record(encoding=Encoding.XOR), "unknown encoding 2"),
        (record(encoding=7), "unknown encoding 7"),
        (record(flags=1), "not agreed"),
        (record(base=b"b" * 16), "not agreed"),
        (record(encoding=Encoding.ZERO), "carries data"),
        (record(encoding=Encoding.ZERO, data=b"", result=b"x" * 16), "carries data"),
        (record(result=b"x" * 16), "fails its hash"),
        (record() + record(), "track 0 comes twice"),
        (
            record(first=4, encoding=Encoding.ZERO, data=b"")
            + record(first=3, count=2, encoding=Encoding.ZERO, data=b""),
            "track 4 comes twice",
        ),
    ],
)
def test_a_record_that_is_not_exact_is_refused(raw: bytes, message: str) -> None:
    refuse(raw, message)


def test_a_flipped_bit_in_the_data_is_noticed() -> None:
    raw = bytearray(record(data=NOISE, count=3))
    raw[-5] ^= 1
    refuse(bytes(raw), "fails its hash")


def test_the_raw_length_must_be_the_announced_one() -> None:
    raw = record()
    for wrong in (len(raw) - 1, len(raw) + 1):
        with pytest.raises(ProtocolError):
            decode_records(b"\x00" + raw, wrong, SIZE, TRACK)
        with pytest.raises(ProtocolError, match="states another size"):
            decode_records(b"\x01" + zstandard.compress(raw), wrong, SIZE, TRACK)
    for wrong in (0, RAW_BYTES_MAX + 1):
        with pytest.raises(ProtocolError, match="out of bounds"):
            decode_records(b"\x00" + raw, wrong, SIZE, TRACK)


@pytest.mark.parametrize("payload", [b"", b"\x02abc", b"\x01", b"\x01garbage", b"\x00"])
def test_a_payload_of_no_known_storage_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_records(payload, 100, SIZE, TRACK)


def test_a_zstd_frame_without_its_size_is_refused() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(record())
    with pytest.raises(ProtocolError, match="states another size"):
        decode_records(b"\x01" + packed, len(record()), SIZE, TRACK)


def test_a_zstd_frame_with_a_dictionary_is_refused() -> None:
    dictionary = zstandard.ZstdCompressionDict(
        b"\x37\xa4\x30\xec" + bytes(100), dict_type=zstandard.DICT_TYPE_RAWCONTENT
    )
    raw = record()
    packed = bytearray(zstandard.ZstdCompressor(dict_data=dictionary).compress(raw))
    # Magic, then the descriptor: bits 0 and 1 give the size of a dictionary id.
    packed[4] |= 1
    with_id = bytes(packed[:5]) + b"\x07" + bytes(packed[5:])
    with pytest.raises(ProtocolError):
        decode_records(b"\x01" + with_id, len(raw), SIZE, TRACK)


def test_trailing_bytes_after_a_zstd_frame_are_refused() -> None:
    packed = zstandard.compress(record())
    for tail in (b"x", packed):
        with pytest.raises(ProtocolError):
            decode_records(b"\x01" + packed + tail, len(record()), SIZE, TRACK)


@pytest.mark.parametrize("announced", [1000, RAW_BYTES_MAX])
def test_a_decompression_bomb_allocates_nothing(announced: int) -> None:
    bomb = zstandard.compress(bytes(256 << 20))
    assert len(bomb) < 32 << 10
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="states another size"):
        decode_records(b"\x01" + bomb, announced, SIZE, TRACK)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_a_lying_size_does_not_let_a_bomb_through() -> None:
    whole = zstandard.ZstdCompressor(level=1).compress(bytes(200_000))
    parameters = zstandard.get_frame_parameters(whole)
    assert parameters.content_size == 200_000
    lying = whole.replace((200_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert lying != whole
    with pytest.raises(ProtocolError):
        decode_records(b"\x01" + lying, 1000, SIZE, TRACK)


def test_one_frame_may_not_cover_more_than_its_share() -> None:
    most = ZERO_BYTES_MAX // TRACK
    size = 1 << 40
    payload, raw_bytes = encode_records([RunData(7, most, None)], None)
    assert len(decode_records(payload, raw_bytes, size, TRACK)) == 1
    payload, raw_bytes = encode_records([RunData(7, most + 1, None)], None)
    with pytest.raises(ProtocolError, match="covers too much"):
        decode_records(payload, raw_bytes, size, TRACK)
