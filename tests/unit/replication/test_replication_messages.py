from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest

from common.errors import ProtocolError
from common.replication.codec import decode, encode_meta
from common.replication.cycle_messages import RUNS_MAX, CycleBegin, Hashes, Tracks
from common.replication.frame import Frame, FrameParser, encode_frame
from common.replication.messages import Message, MessageType
from common.replication.session_messages import (
    GOODBYE_BYTES_MAX,
    Goodbye,
    GoodbyeReason,
    Resize,
    goodbye,
)
from tests.support.replication_messages import CYCLE, EXAMPLES

VECTORS = Path(__file__).parents[2] / "vectors" / "replication"

NO_ID = bytes(16)
SENDER = [b"g" * 16, b"l" * 16, 0, NO_ID, None, None, NO_ID, 0]
HELLO_FIELDS = [1, 1, "a", "g", SENDER, [["v", b"v" * 16, 512, 4096]], []]


def as_bytes(message: Message) -> bytes:
    kind, meta = encode_meta(message)
    payload = message.payload if isinstance(message, Tracks | Hashes) else b""
    return b"".join(encode_frame(kind, meta, payload))


def frame_of(kind: int, values: object, payload: bytes = b"") -> Frame:
    meta = values if isinstance(values, bytes) else msgpack.packb(values)
    return Frame(kind, meta, memoryview(payload), 5)


def test_there_is_a_vector_for_every_type_of_message() -> None:
    kinds = {encode_meta(message)[0] for message in EXAMPLES.values()}
    assert kinds == set(MessageType)
    assert {path.stem for path in VECTORS.glob("*.hex")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_bytes_of_a_message_never_change(name: str) -> None:
    stored = bytes.fromhex((VECTORS / f"{name}.hex").read_text())
    assert as_bytes(EXAMPLES[name]) == stored


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_vector_decodes_to_its_message(name: str) -> None:
    stored = bytes.fromhex((VECTORS / f"{name}.hex").read_text())
    (frame,) = FrameParser().feed(stored)
    message = decode(frame)
    assert message == EXAMPLES[name]
    if isinstance(message, Tracks | Hashes):
        assert bytes(message.payload) == EXAMPLES[name].payload  # type: ignore[union-attr]
        assert message.checksum == frame.checksum


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_field_too_few_or_too_many_is_refused(name: str) -> None:
    (frame,) = FrameParser().feed(as_bytes(EXAMPLES[name]))
    values = msgpack.unpackb(frame.meta)
    for wrong in (values[:-1], [*values, 0], [], {}, 5, None):
        with pytest.raises(ProtocolError):
            decode(replace(frame, meta=msgpack.packb(wrong)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_field_of_another_type_is_refused(name: str) -> None:
    (frame,) = FrameParser().feed(as_bytes(EXAMPLES[name]))
    values = msgpack.unpackb(frame.meta)
    alien = (True, 1.5, math.nan, -1, 1 << 63, "x" * 5000, b"", b"x" * 17, {}, [[]])
    for index, good in enumerate(values):
        for wrong in alien:
            if isinstance(good, int) and wrong == 1 << 63 and name == "cycle_end":
                continue  # a digest has all 64 bits
            changed = [*values[:index], wrong, *values[index + 1 :]]
            with pytest.raises(ProtocolError):
                decode(replace(frame, meta=msgpack.packb(changed)))


@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"\xc1",
        b"\x92\x01",
        b"\x81\x01\x02",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91" * 60000 + b"\x00",
        b"\x91\xa1\xff",
        b"\x91\x01\x91",
        b"\x91\xd6\xff\x00\x00\x00\x00",
    ],
    ids=[
        "nothing",
        "never used byte",
        "cut short",
        "map",
        "huge array",
        "huge map",
        "huge string",
        "huge bytes",
        "huge extension",
        "nested too deep",
        "not UTF-8",
        "trailing bytes",
        "timestamp extension",
    ],
)
def test_hostile_msgpack_is_refused(meta: bytes) -> None:
    for kind in MessageType:
        with pytest.raises(ProtocolError):
            decode(frame_of(kind, meta))


def test_an_unknown_type_is_refused() -> None:
    for kind in (0, max(MessageType) + 1, 255):
        with pytest.raises(ProtocolError, match=f"type {kind}"):
            decode(frame_of(kind, []))


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (2, ""),
        (2, "../x"),
        (3, "a/b"),
        (3, "x" * 65),
        (3, "name\n"),
        (4, b"g" * 15),
        (6, [["v", b"v" * 16, 0, 4096]]),
        (6, [["v", b"v" * 16, 513, 4096]]),
        (6, [["v", b"v" * 16, (1 << 50) + 512, 4096]]),
        (6, [["v", b"v" * 16, 512, 4095]]),
        (6, [["v", b"v" * 16, 512, 2048]]),
        (6, [["v", b"v" * 16, 512, 2 << 20]]),
        (6, [["v", b"v" * 16, 512, 4096]] * 257),
    ],
)
def test_a_hello_out_of_bounds_is_refused(index: int, value: object) -> None:
    assert decode(frame_of(MessageType.HELLO, HELLO_FIELDS))
    changed = [*HELLO_FIELDS[:index], value, *HELLO_FIELDS[index + 1 :]]
    with pytest.raises(ProtocolError, match="HELLO"):
        decode(frame_of(MessageType.HELLO, changed))


@pytest.mark.parametrize(
    ("index", "good", "wrong"),
    [
        (0, (0, (1 << 63) - 1), (-1, 1 << 63)),
        (1, (0, 255), (-1, 256)),
        (2, (512, 1 << 50), (0, 511, 513, (1 << 50) + 512)),
        (3, (512, 1 << 50), (0, 511, 513, (1 << 50) + 512)),
    ],
    ids=["epoch", "volume", "from_bytes", "size_bytes"],
)
def test_a_resize_is_taken_within_its_bounds_only(
    index: int, good: tuple[int, ...], wrong: tuple[int, ...]
) -> None:
    fields = [7, 1, 512, 1024]
    for value in good:
        changed = [*fields[:index], value, *fields[index + 1 :]]
        message = decode(frame_of(MessageType.RESIZE, changed))
        assert message == Resize(*changed)
        assert encode_meta(message) == (MessageType.RESIZE, msgpack.packb(changed))
    for value in wrong:
        changed = [*fields[:index], value, *fields[index + 1 :]]
        with pytest.raises(ProtocolError, match="RESIZE"):
            decode(frame_of(MessageType.RESIZE, changed))
        with pytest.raises(AssertionError):
            encode_meta(Resize(*changed))


def test_only_tracks_and_hashes_carry_a_payload() -> None:
    for message in EXAMPLES.values():
        if not isinstance(message, Tracks | Hashes):
            kind, meta = encode_meta(message)
            with pytest.raises(ProtocolError, match="no payload"):
                decode(frame_of(kind, meta, b"x"))


@pytest.mark.parametrize("payload", [b"", b"h" * 31, b"h" * 48])
def test_hashes_must_be_one_for_each_track(payload: bytes) -> None:
    kind, meta = encode_meta(EXAMPLES["hashes"])
    with pytest.raises(ProtocolError, match="one hash a track"):
        decode(frame_of(kind, meta, payload))


def test_the_longest_need_full_fits_a_meta() -> None:
    run = (1 << 38, 1 << 14)
    message = replace(EXAMPLES["need_full"], runs=(run,) * RUNS_MAX)  # type: ignore[call-arg]
    (frame,) = FrameParser().feed(as_bytes(message))
    assert decode(frame) == message


def test_we_never_send_what_we_would_refuse() -> None:
    with pytest.raises(AssertionError, match="CYCLE_BEGIN breaks its own bounds"):
        encode_meta(CycleBegin(1, 1, CYCLE[:15], 0, None))


def test_a_goodbye_is_cut_to_what_fits() -> None:
    message = goodbye(GoodbyeReason.PROTOCOL, "ü" * GOODBYE_BYTES_MAX)
    assert len(message.text.encode()) <= GOODBYE_BYTES_MAX
    assert encode_meta(message)
    assert encode_meta(goodbye(GoodbyeReason.PROTOCOL, "lone \udcff"))
    assert isinstance(message, Goodbye)
