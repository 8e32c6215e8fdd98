from __future__ import annotations

import struct
import zlib

import pytest

from common.errors import ProtocolError
from common.ports import Buffer
from common.replication.frame import (
    HEADER_BYTES,
    META_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    FrameParser,
    encode_frame,
    encode_summed_frame,
)

META = b"\x92\x01\x02"
PAYLOAD = bytes(range(256)) * 3


def frame_bytes(kind: int = 7, meta: bytes = META, payload: Buffer = PAYLOAD) -> bytes:
    return b"".join(encode_frame(kind, meta, payload))


def header(**changes: int) -> bytes:
    """A header whose checksum holds, whatever else it says."""
    values = {"version": 1, "type": 7, "flags": 0, "meta": 0, "payload": 0, "sum": 0}
    values.update(changes)
    packed = struct.pack("<4sBBHIIQ", b"FSR1", *values.values())
    return packed + zlib.crc32(packed).to_bytes(4, "little")


def test_a_whole_frame_comes_out_as_it_went_in() -> None:
    (frame,) = FrameParser().feed(frame_bytes())
    assert (frame.type, frame.meta, bytes(frame.payload)) == (7, META, PAYLOAD)


def test_the_payload_is_handed_on_uncopied() -> None:
    buffers = encode_frame(7, META, PAYLOAD)
    assert buffers[-1] is PAYLOAD


def test_both_sides_know_the_same_checksum() -> None:
    buffers, checksum = encode_summed_frame(7, META, PAYLOAD)
    (frame,) = FrameParser().feed(b"".join(buffers))
    assert frame.checksum == checksum != 0


def test_byte_by_byte_gives_the_same_frames() -> None:
    stream = frame_bytes() + frame_bytes(8, b"", b"") + frame_bytes(9, META, b"")
    parser = FrameParser()
    found = [frame for byte in stream for frame in parser.feed(bytes([byte]))]
    assert [(f.type, f.meta, bytes(f.payload)) for f in found] == [
        (7, META, PAYLOAD),
        (8, b"", b""),
        (9, META, b""),
    ]
    assert parser.buffered_bytes == 0


def test_several_frames_in_one_read_all_come_out() -> None:
    stream = frame_bytes() * 5
    assert len(FrameParser().feed(stream + frame_bytes()[:20])) == 5


def test_any_flipped_bit_is_noticed() -> None:
    whole = frame_bytes(payload=b"some payload")
    for position in range(len(whole) * 8):
        broken = bytearray(whole)
        broken[position // 8] ^= 1 << position % 8
        with pytest.raises(ProtocolError):
            FrameParser().feed(broken)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"X", b"FSR2", b"\0" * 100]
)
def test_what_is_no_frame_is_refused_at_its_first_bytes(garbage: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a farshore replication frame"):
        FrameParser().feed(garbage)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"flags": 1}, "flags 0x1"),
        ({"meta": META_BYTES_MAX + 1}, "meta of 65537"),
        ({"payload": PAYLOAD_BYTES_MAX + 1}, "payload of 5242881"),
        ({"payload": 0xFFFFFFFF}, "payload of 4294967295"),
    ],
)
def test_a_header_beyond_the_limits_is_refused_before_its_body(
    changes: dict[str, int], message: str
) -> None:
    parser = FrameParser()
    with pytest.raises(ProtocolError, match=message):
        parser.feed(header(**changes))
    assert parser.buffered_bytes <= HEADER_BYTES


def test_a_wrong_header_checksum_is_refused_before_its_lengths_count() -> None:
    broken = header(payload=0xFFFFFFFF)[:-1] + b"\xff"
    with pytest.raises(ProtocolError, match="header checksum"):
        FrameParser().feed(broken)


def test_the_largest_frame_passes() -> None:
    meta, payload = bytes(META_BYTES_MAX), bytes(PAYLOAD_BYTES_MAX)
    (frame,) = FrameParser().feed(frame_bytes(1, meta, payload))
    assert len(frame.payload) == PAYLOAD_BYTES_MAX


def test_before_a_handshake_no_payload_is_taken() -> None:
    parser = FrameParser(payload_bytes_max=0)
    assert len(parser.feed(frame_bytes(1, META, b""))) == 1
    with pytest.raises(ProtocolError, match="limit of 0"):
        parser.feed(frame_bytes(payload=b"x"))
