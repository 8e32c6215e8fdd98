"""Payloads against a reference: what arrives, and every lie about one refused."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

import pytest
import zstandard

from common.errors import ProtocolError
from common.replication.cycle_messages import RAW_BYTES_MAX
from common.replication.delta import apply_difference
from common.replication.gathered import gather
from common.replication.referenced import (
    HEAD_BYTES_MAX,
    PIECE_BYTES,
    REFERENCE_PIECES_MAX,
    Decoded,
    Pieces,
    Reference,
    decode_payload,
    encode_referenced,
)
from common.replication.tracks import (
    DeltaRun,
    RunData,
    decode_records,
    encode_records,
    run_hash,
)

TRACK = 4096
SIZE = 1000 * TRACK + 512
KNOWN = random.Random(4).randbytes(8 * PIECE_BYTES)
PIECES: Pieces = [(3, 2), (7, 1), (100, 5)]
REFERENCE = Reference(PIECES, KNOWN)
BASE, RESULT = KNOWN[:TRACK], KNOWN[5 : TRACK + 5]
RUN_BYTES, START_BYTES = 12, 21


def records() -> list[RunData | DeltaRun]:
    difference = apply_difference(BASE, RESULT)
    return [
        RunData(20, 4, KNOWN[77 : 4 * TRACK + 77]),
        RunData(30, 9, None),
        DeltaRun(50, 1, difference, run_hash(BASE), run_hash(RESULT)),
        DeltaRun(60, 2, b"", run_hash(KNOWN), run_hash(KNOWN)),
        RunData(1000, 1, KNOWN[:512]),
        RunData(10, 1, KNOWN[9 : TRACK + 9]),
    ]


def decoded(payload: bytes, raw_bytes: int, held: bytes | None = KNOWN) -> Decoded:
    def answer(pieces: Pieces) -> bytes | None:
        assert pieces == PIECES
        return held

    return decode_payload(payload, raw_bytes, SIZE, TRACK, delta=True, held=answer)


@pytest.mark.parametrize("level", [1, 3, 9, 15])
def test_what_arrives_is_what_was_sent_and_little_of_it_travels(level: int) -> None:
    payload, raw_bytes = encode_referenced(records(), REFERENCE, level)
    alone, alone_bytes = encode_records(records(), level, gathered=True)
    found = decoded(payload, raw_bytes)
    assert found.refused == []
    assert found.records == decode_records(alone, alone_bytes, SIZE, TRACK, delta=True)
    assert len(payload) < len(alone) - 4 * TRACK


def test_other_payloads_are_decoded_as_before() -> None:
    payload, raw_bytes = encode_records(records(), 3, gathered=True)
    found = decode_payload(payload, raw_bytes, SIZE, TRACK, delta=True)
    assert found.records == decode_records(payload, raw_bytes, SIZE, TRACK, delta=True)


@pytest.mark.parametrize("held", [None, KNOWN[:-1], bytes(len(KNOWN)), KNOWN[::-1]])
def test_what_is_held_otherwise_has_all_runs_refused(held: bytes | None) -> None:
    found = decoded(*encode_referenced(records(), REFERENCE, 3), held)
    assert found.records == []
    runs = [(10, 1), (20, 4), (30, 9), (50, 1), (60, 2), (1000, 1)]
    assert found.refused == runs


def test_a_reference_is_refused_where_none_was_agreed_upon() -> None:
    payload, raw_bytes = encode_referenced(records(), REFERENCE, 3)
    with pytest.raises(ProtocolError, match="not agreed"):
        decode_payload(payload, raw_bytes, SIZE, TRACK, delta=True)
    with pytest.raises(ProtocolError, match="unknown storage"):
        decode_records(payload, raw_bytes, SIZE, TRACK, delta=True)


def test_a_reference_as_long_as_may_be_serves_a_frame_as_long_as_may_be() -> None:
    known = random.Random(9).randbytes(REFERENCE_PIECES_MAX * PIECE_BYTES)
    reference = Reference([(0, REFERENCE_PIECES_MAX)], known)
    count = RAW_BYTES_MAX // TRACK - 1
    sent = RunData(0, count, known[99 : 99 + count * TRACK])
    payload, raw_bytes = encode_referenced([sent], reference, 3)
    assert len(payload) < 10_000
    found = decode_payload(
        payload, raw_bytes, 1 << 30, TRACK, delta=True, held=lambda _: known
    )
    assert found.records[0].data == sent.data


def payload_of(
    head: bytes, body: bytes, raw_bytes: int | None = None, known: bytes = KNOWN
) -> tuple[bytes, int]:
    """A payload as a peer might write it."""
    packed = zstandard.compress(head)
    dictionary = zstandard.ZstdCompressionDict(
        known, dict_type=zstandard.DICT_TYPE_RAWCONTENT
    )
    data = zstandard.ZstdCompressor(dict_data=dictionary).compress(body)
    start = struct.pack("<cI16s", b"\3", len(packed), run_hash(known))
    return start + packed + data, raw_bytes or len(head) + len(body)


def runs_of(*runs: tuple[int, int]) -> bytes:
    return gather([struct.pack("<QI", *run) for run in runs])


def header(first: int = 0, count: int = 1, length: int = TRACK) -> bytes:
    return struct.pack(
        "<QIBB16s16sI", first, count, 1, 0, bytes(16), run_hash(BASE), length
    )


def lies() -> Iterator[tuple[bytes, int, str]]:
    good, one = runs_of((3, 1)), gather([header()])
    yield *payload_of(runs_of((3, 0)) + one, BASE), "empty or too long"
    yield *payload_of(runs_of((0, 1025)) + one, BASE), "empty or too long"
    yield *payload_of(runs_of((0, 600), (1, 600)) + one, BASE), "empty or too long"
    yield *payload_of(b"\0\0\0\0" + one, BASE), "do not fit"
    yield *payload_of(good[:-1], BASE), "do not fit"
    yield *payload_of(good, BASE), "cut short"
    yield *payload_of(good + one + b"x", BASE), "too long"
    yield *payload_of(good + gather([header(1001)]), BASE), "not of this volume"
    yield *payload_of(good + gather([header(count=0)]), BASE), "not of this volume"
    yield *payload_of(good + gather([header(), header()]), 2 * BASE), "comes twice"
    yield *payload_of(good + gather([header(length=99)]), BASE[:99]), "has 99"
    yield *payload_of(good + one, BASE + b"x"), "data of no record"
    yield *payload_of(good + one, BASE[:-1]), "cut short"
    yield *payload_of(good + one, RESULT), "fails its hash"
    head = good + one
    yield *payload_of(head, BASE, len(head)), "head of a reference is too long"
    yield *payload_of(head, BASE, len(head) + 1), "states another size"
    yield *payload_of(head, BASE, RAW_BYTES_MAX + 1), "out of bounds"
    yield *payload_of(bytes(HEAD_BYTES_MAX + 1), BASE), "too long"
    payload, raw_bytes = payload_of(head, BASE)
    yield payload[: START_BYTES - 1], raw_bytes, "cut short"
    yield payload[:START_BYTES], raw_bytes, "cut short"
    yield payload[:START_BYTES] + b"?" * 999, raw_bytes, "zstd"
    yield payload[:-1], raw_bytes, "zstd"
    yield payload + b"x", raw_bytes, "zstd"


@pytest.mark.parametrize(("payload", "raw_bytes", "message"), list(lies()))
def test_what_is_not_exact_is_refused(
    payload: bytes, raw_bytes: int, message: str
) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode_payload(
            payload, raw_bytes, SIZE, TRACK, delta=True, held=lambda _: KNOWN
        )


def test_what_is_exact_is_taken() -> None:
    """The lies above are each of one thing only."""
    payload, raw_bytes = payload_of(runs_of((3, 1)) + gather([header()]), BASE)
    found = decode_payload(
        payload, raw_bytes, SIZE, TRACK, delta=True, held=lambda _: KNOWN
    )
    assert found.records[0].data == BASE


@pytest.mark.parametrize("what", [lambda s: s + 1, lambda s: s << 40])
def test_sizes_are_looked_at_before_anything_is_allocated(
    what: Callable[[int], int],
) -> None:
    """A frame's own size wins in zstandard over the one that is allowed."""
    head = runs_of((3, 1)) + gather([header()])
    payload, raw_bytes = payload_of(head, BASE)
    # A zstd frame with a size of eight bytes: magic, descriptor, window, size.
    stated = struct.pack("<IBBQ", 0xFD2FB528, 0xC0, 0x50, what(TRACK)) + b"\1\0\0"
    (length,) = struct.unpack_from("<I", payload, 1)
    bomb = payload[: START_BYTES + length] + stated
    with pytest.raises(ProtocolError, match="another size"):
        decode_payload(bomb, raw_bytes, SIZE, TRACK, delta=True, held=lambda _: KNOWN)
