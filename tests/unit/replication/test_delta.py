"""Differences: how a track travels, and every lie about one refused."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
import zstandard

from common.errors import ProtocolError
from common.replication.cycle_messages import COVERED_BYTES_MAX, Encoding
from common.replication.delta import Stretch, apply_difference, differences
from common.replication.tracks import (
    DeltaRun,
    RunData,
    decode_records,
    encode_records,
    run_hash,
)

TRACK = 4096
SIZE = 100 * TRACK + 512
RANDOM = random.Random(3)
NOISE, OTHER = RANDOM.randbytes(TRACK), RANDOM.randbytes(TRACK)


def changed(data: bytes, *places: int) -> bytes:
    """Return the data with a byte changed at each place."""
    found = bytearray(data)
    for place in places:
        found[place] ^= 0x5A
    return bytes(found)


def restored(base: bytes, record: RunData | DeltaRun) -> bytes:
    if isinstance(record, RunData):
        assert record.data is not None
        return bytes(record.data)
    assert run_hash(base) == record.base_hash
    difference = record.difference or bytes(len(base))
    found = apply_difference(base, difference)
    assert run_hash(found) == record.result_hash
    return found


def kinds(base: bytes, data: bytes) -> list[tuple[str, int, int]]:
    """Return how each run travels, having checked that it arrives."""
    count = -(-len(data) // TRACK)
    found = []
    for record in differences([Stretch(7, count, data, base)], TRACK):
        start = (record.first - 7) * TRACK
        end = min(start + record.count * TRACK, len(data))
        assert restored(base[start:end], record) == data[start:end]
        if isinstance(record, RunData):
            kind = "raw"
        else:
            kind = "xor" if len(record.difference) else "equal"
        found.append((kind, record.first, record.count))
    return found


def test_each_track_travels_the_shortest_way() -> None:
    base = NOISE * 6
    data = NOISE + changed(NOISE, 5) + changed(NOISE, 9, 4000) + OTHER + NOISE * 2
    assert kinds(base, data) == [
        ("equal", 7, 1),
        ("xor", 8, 2),
        ("raw", 10, 1),
        ("equal", 11, 2),
    ]


def test_a_difference_that_counting_cannot_judge_is_measured() -> None:
    counters = struct.pack("<512Q", *RANDOM.choices(range(1 << 62), k=512))
    counted = struct.pack("<512Q", *(n + 1 for n in struct.unpack("<512Q", counters)))
    assert kinds(counters, counted) == [("xor", 7, 1)], "all words differ, few bytes"
    half = NOISE[: TRACK // 2] + bytes(TRACK // 2)
    assert kinds(NOISE, half) == [("raw", 7, 1)], "its difference is noise, it is less"
    assert kinds(OTHER, NOISE) == [("raw", 7, 1)]


def test_the_last_track_is_as_long_as_the_volume_lets_it_be() -> None:
    short = NOISE[:512]
    assert kinds(NOISE + short, OTHER + changed(short, 3)) == [
        ("raw", 7, 1),
        ("xor", 8, 1),
    ]
    assert kinds(NOISE + short, NOISE + short) == [("equal", 7, 2)]


def test_many_stretches_keep_their_order_and_their_own_bytes() -> None:
    bases = [RANDOM.randbytes(TRACK * count) for count in (1, 3, 2)]
    stretches = [
        Stretch(at * 10, len(base) // TRACK, changed(base, 17 + at), base)
        for at, base in enumerate(bases)
    ]
    found = list(differences(stretches, TRACK))
    assert [(r.first, r.count) for r in found] == [
        (0, 1),
        (10, 1),
        (11, 2),
        (20, 1),
        (21, 1),
    ]
    for record in found:
        base = bases[record.first // 10]
        start = record.first % 10 * TRACK
        part = base[start : start + record.count * TRACK]
        assert restored(part, record)[:17] == part[:17]
    assert list(differences([], TRACK)) == []


@pytest.mark.parametrize("level", [None, 1, 9])
def test_what_was_encoded_is_decoded(level: int | None) -> None:
    base, data = NOISE * 3, NOISE + changed(NOISE, 1) + OTHER
    runs = [*differences([Stretch(4, 3, data, base)], TRACK), RunData(50, 9, None)]
    payload, raw_bytes = encode_records(runs, level)
    found = decode_records(payload, raw_bytes, SIZE, TRACK, delta=True)
    assert [(r.first, r.count, r.encoding) for r in found] == [
        (4, 1, Encoding.XOR),
        (5, 1, Encoding.XOR),
        (6, 1, Encoding.RAW),
        (50, 9, Encoding.ZERO),
    ]
    equal, differs = found[:2]
    assert equal.data is None
    assert equal.base_hash == equal.result_hash == run_hash(NOISE)
    assert differs.data is not None
    assert apply_difference(NOISE, differs.data) == data[TRACK : 2 * TRACK]


def test_an_update_in_place_costs_a_fraction_of_its_track() -> None:
    runs = list(differences([Stretch(0, 1, changed(NOISE, 100), NOISE)], TRACK))
    payload, _ = encode_records(runs, 1)
    assert len(payload) < 100


def gathered_frame(count: int = 64) -> tuple[list[RunData | DeltaRun], bytes, int]:
    base = NOISE
    runs: list[RunData | DeltaRun] = []
    for at in range(count):
        data = changed(base, at)
        runs += differences([Stretch(at, 1, data, base)], TRACK)
    runs.append(RunData(count, 2, None))
    runs.append(RunData(99, 2, NOISE + NOISE[:512]))
    return runs, *encode_records(runs, 3, gathered=True)


def test_headers_side_by_side_cost_less_and_say_the_same() -> None:
    runs, payload, raw_bytes = gathered_frame()
    apart, apart_bytes = encode_records(runs, 3)
    assert payload[0] == 2
    assert len(payload) - TRACK < 0.9 * (len(apart) - TRACK)
    found = decode_records(payload, raw_bytes, SIZE, TRACK, delta=True)
    assert found == decode_records(apart, apart_bytes, SIZE, TRACK, delta=True)


def test_gathered_headers_are_refused_where_they_were_not_agreed_upon() -> None:
    _, payload, raw_bytes = gathered_frame()
    with pytest.raises(ProtocolError, match="not agreed"):
        decode_records(payload, raw_bytes, SIZE, TRACK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:3], "count of records is cut short"),
        (lambda raw: bytes(4) + raw[4:], "0 records do not fit"),
        (lambda raw: b"\xff" * 4 + raw[4:], "do not fit"),
        (lambda raw: raw[:-1], "data is cut short"),
        (lambda raw: raw + b"x", "data of no record"),
    ],
)
def test_gathered_headers_that_are_not_exact_are_refused(
    change: Callable[[bytes], bytes], message: str
) -> None:
    _, payload, raw_bytes = gathered_frame()
    raw = change(zstandard.decompress(payload[1:], max_output_size=raw_bytes))
    broken = b"\x02" + zstandard.compress(raw)
    with pytest.raises(ProtocolError, match=message):
        decode_records(broken, len(raw), SIZE, TRACK, delta=True)


def difference(
    data: bytes = NOISE,
    *,
    first: int = 0,
    count: int = 1,
    base: bytes = b"b" * 16,
    result: bytes = b"r" * 16,
    flags: int = 0,
) -> bytes:
    """A record of a difference as a peer might write it."""
    head = struct.pack(
        "<QIBB16s16sI", first, count, Encoding.XOR, flags, base, result, len(data)
    )
    return head + data


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (difference(flags=1), "not agreed"),
        (difference(NOISE[:-1]), "of 4096 bytes has 4095"),
        (difference(b""), "of 4096 bytes has 0"),
        (difference(b"", count=2), "of 8192 bytes has 0"),
        (difference(base=b"r" * 16), "of 4096 bytes has 4096"),
        (difference(first=100), "of 512 bytes has 4096"),
        (difference(first=101), "not of this volume"),
        (difference() + difference(), "track 0 comes twice"),
    ],
)
def test_a_difference_that_is_not_exact_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode_records(b"\x00" + raw, len(raw), SIZE, TRACK, delta=True)


def test_a_difference_is_refused_where_it_was_not_agreed_upon() -> None:
    for raw in (difference(), difference(b"", base=b"r" * 16)):
        with pytest.raises(ProtocolError, match="not agreed"):
            decode_records(b"\x00" + raw, len(raw), SIZE, TRACK)


def test_what_a_frame_may_have_compared_is_bounded() -> None:
    """Records of nothing are small: what is read for them is not."""
    size = 1 << 40
    step = (4 << 20) // TRACK
    most = COVERED_BYTES_MAX // TRACK // step

    def frame(count: int, tracks: int) -> bytes:
        return b"".join(
            difference(b"", first=at * step, count=tracks, base=b"r" * 16)
            for at in range(count)
        )

    raw = frame(most, step)
    assert len(decode_records(b"\x00" + raw, len(raw), size, TRACK, delta=True)) == most
    for raw in (frame(most + 1, step), frame(1, step + 1)):
        with pytest.raises(ProtocolError, match="too much compared"):
            decode_records(b"\x00" + raw, len(raw), size, TRACK, delta=True)
