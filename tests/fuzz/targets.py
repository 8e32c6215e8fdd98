"""What the fuzzers run: each target takes any bytes and fails if a rule is broken.

A target never fails for what the bytes say, however mad, only for what the parser
makes of them: an exception, output out of shape, or a meaning that changes with
how the network cuts the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import zstandard

from common.errors import ProtocolError
from common.nbd.limits import NbdLimits
from common.nbd.negotiation import Negotiation, TlsMode
from common.nbd.outcome import Agreed
from common.replication.codec import decode, encode_meta
from common.replication.cycle_messages import Encoding
from common.replication.frame import PAYLOAD_BYTES_MAX, FrameParser, encode_frame
from common.replication.referenced import (
    REFERENCE_PIECES_MAX,
    Pieces,
    Reference,
    decode_payload,
    encode_referenced,
)
from common.replication.tracks import (
    DeltaRun,
    RunData,
    TrackRecord,
    decode_records,
    encode_records,
    run_hash,
)
from tests.fuzz import sessions
from tests.support import nbd_wire as wire
from tests.support.nbd_parsers import (
    CONTEXTS,
    SIZE,
    WIRE_FORMS,
    OneExport,
    Taken,
)
from tests.support.nbd_reference import Bounds, answer, understood
from tests.support.nbd_wire import Form

Target = Callable[[bytes], None]

FORMS = list(Form)
CONTEXT_IDS = {name: number for number, name in CONTEXTS}
LIMITS = [
    NbdLimits(),
    NbdLimits(requests_in_flight_max=2, receive_buffers_max=1),
    NbdLimits(bytes_in_flight_max=600, payload_bytes_max=200),
    NbdLimits(payload_bytes_max=50, payload_bytes_drained_max=70),
]
RECORDS_TRACK = 16
RECORDS_SIZE = 20 * RECORDS_TRACK + 8
"""A volume so small that whole tracks fit into what a fuzzer makes up."""

RECORDS_HELD = bytes(range(64))
"""What stands for the pieces that a reference names."""

OUTPUT_PER_OPTION_MAX = 16 << 10
"""No single option is answered with more than this."""


def cut(stream: bytes, seed: int) -> Iterator[bytes]:
    """Cut a stream in pieces whose sizes the seed decides; 0 leaves it whole."""
    at = 0
    while at < len(stream):
        seed = (seed * 1103515245 + 12345) % (1 << 31) if seed else 0
        count = 1 + (seed >> 16) % 61 if seed else len(stream)
        yield stream[at : at + count]
        at += count


def negotiation(data: bytes) -> None:
    """Byte 0 picks the cuts, its top bit TLS; the rest is what the client says."""
    if not data:
        return
    stream = data[1:]
    if data[0] & 0x80:
        _negotiate_with_tls(stream, data[0] & 0x7F)
        return
    whole = _negotiate(stream, 0)
    assert _negotiate(stream, data[0]) == whole


def _negotiate(stream: bytes, seed: int) -> tuple[object, ...]:
    parser = Negotiation(OneExport())
    output, unread = parser.take_output(), b""
    for piece in cut(stream, seed):
        if parser.outcome is not None:
            unread += piece
            continue
        parser.receive(piece)
        output += parser.take_output()
    _check_output(parser, output, len(stream))
    outcome = parser.outcome
    return output, outcome, parser.trailing + unread if outcome else b""


def _check_output(parser: Negotiation, output: bytes, received_bytes: int) -> None:
    assert output.startswith(wire.GREETING)
    replies = output[len(wire.GREETING) :]
    assert len(replies) <= OUTPUT_PER_OPTION_MAX * (1 + received_bytes // 16)
    if not isinstance(parser.outcome, Agreed):
        wire.option_replies(replies)
        return
    assert parser.outcome.export_name == "g/v"
    assert {name for _, name in parser.outcome.contexts} <= {"base:allocation"}


def _negotiate_with_tls(stream: bytes, seed: int) -> None:
    parser = Negotiation(OneExport(), TlsMode.REQUIRED)
    is_encrypted = extends = structures = False
    for piece in cut(stream, seed):
        if parser.outcome is not None:
            return
        parser.receive(piece)
        output = parser.take_output()
        if parser.wants_tls:
            assert not is_encrypted
            is_encrypted = True
            extends = structures = False
            parser.tls_started()
            continue
        extends |= _acknowledged(output, wire.EXTENDED_HEADERS)
        structures |= _acknowledged(output, wire.STRUCTURED_REPLY)
    if isinstance(parser.outcome, Agreed):
        assert is_encrypted, "an export without TLS"
        form = Form.SIMPLE
        if extends or structures:
            form = Form.EXTENDED if extends else Form.STRUCTURED
        assert parser.outcome.form == WIRE_FORMS[form]


def _acknowledged(output: bytes, number: int) -> bool:
    return struct.pack(">QIII", 0x3E889045565A9, number, wire.ACK, 0) in output


def requests(data: bytes) -> None:
    """Byte 0 picks form and limits, byte 1 the cuts; the rest are requests."""
    if len(data) < 2:
        return
    form = FORMS[data[0] % len(FORMS)]
    limits = LIMITS[data[0] // len(FORMS) % len(LIMITS)]
    taken = Taken(form, at_once=data[0] < 0x80, limits=limits)
    for piece in cut(data[2:], data[1]):
        taken.feed(piece)
    taken.complete_all()
    bounds = Bounds(
        SIZE,
        limits.payload_bytes_max,
        limits.payload_bytes_drained_max,
        () if form is Form.SIMPLE else tuple(CONTEXT_IDS.values()),
    )
    expected = understood(form, data[2:], bounds)
    assert [_plain(request) for request in taken.requests] == expected.requests
    assert [answer(form, reply) for reply in taken.answers] == expected.answers
    ended = taken.ended
    end = "open" if ended is None else "refused" if ended.refused else "bye"
    assert end == expected.end


def _plain(request: tuple[object, ...]) -> tuple[object, ...]:
    """Return a taken request as the reference writes it."""
    command, offset, length, payload, fua, no_hole, fast, sparse_ok, asked, cookie = (
        request
    )
    assert not fast, "not offered"
    assert isinstance(asked, tuple)
    ids = tuple(CONTEXT_IDS[name] for name in asked)
    if isinstance(cookie, tuple):
        # The server keeps other things along with it.
        cookie = cookie[0]
    offset = 0 if command == wire.FLUSH else offset
    return command, offset, length, payload, fua, no_hole, sparse_ok, ids, cookie


def frames(data: bytes) -> None:
    """Byte 0 picks the cuts; the rest comes from the other site."""
    if not data:
        return
    assert _frames(data[1:], data[0]) == _frames(data[1:], 0)


def _frames(stream: bytes, seed: int) -> tuple[list[tuple[object, ...]], str]:
    parser = FrameParser()
    found: list[tuple[object, ...]] = []
    try:
        for piece in cut(stream, seed):
            for frame in parser.feed(piece):
                found.append((frame.type, frame.meta, bytes(frame.payload)))
                assert len(frame.payload) <= PAYLOAD_BYTES_MAX
    except ProtocolError as error:
        # What one call had found before the error is lost with the connection.
        return [], str(error)
    return found, ""


def messages(data: bytes) -> None:
    """Byte 0 is the type, byte 1 the payload's length; the rest meta and payload.

    The checksums are made to hold: what is tried is what comes after them.
    """
    if len(data) < 2:
        return
    meta_end = max(2, len(data) - data[1])
    meta, payload = data[2:meta_end], data[meta_end:]
    (frame,) = FrameParser().feed(b"".join(encode_frame(data[0], meta, payload)))
    try:
        message = decode(frame)
    except ProtocolError:
        return
    kind, again = encode_meta(message)
    assert kind == data[0]
    (frame,) = FrameParser().feed(b"".join(encode_frame(kind, again, payload)))
    assert decode(frame) == message


def records(data: bytes) -> None:
    """Byte 0: bit 0 differences were agreed upon, bit 1 packed, bit 2 gathered too.

    The rest are records. What is taken says again exactly what came. Bit 3: against a
    reference, and byte 1 is the length of the head.
    """
    if len(data) < 2:
        return
    if data[0] & 8:
        _referenced(data[2 : 2 + data[1]], data[2 + data[1] :])
        return
    has_delta, is_packed, raw = bool(data[0] & 1), bool(data[0] & 2), data[1:]
    storage = (b"\x02" if data[0] & 4 else b"\x01") if is_packed else b"\x00"
    payload = storage + (zstandard.compress(raw) if is_packed else raw)
    try:
        found = decode_records(
            payload, len(raw), RECORDS_SIZE, RECORDS_TRACK, delta=has_delta
        )
    except ProtocolError:
        return
    assert has_delta or all(each.encoding != Encoding.XOR for each in found)
    sent = [_as_sent(each) for each in found]
    if storage != b"\x02":
        assert encode_records(sent, None)[0][1:] == raw
        return
    again, again_bytes = encode_records(sent, 1, gathered=True)
    assert found == decode_records(
        again, again_bytes, RECORDS_SIZE, RECORDS_TRACK, delta=True
    )


def _referenced(head: bytes, body: bytes) -> None:
    asked: list[Pieces] = []

    def held(pieces: Pieces) -> bytes | None:
        asked.append(pieces)
        return RECORDS_HELD if len(pieces) < 2 else None

    packed = zstandard.compress(head)
    dictionary = zstandard.ZstdCompressionDict(
        RECORDS_HELD, dict_type=zstandard.DICT_TYPE_RAWCONTENT
    )
    data = zstandard.ZstdCompressor(dict_data=dictionary).compress(body)
    start = struct.pack("<cI16s", b"\x03", len(packed), run_hash(RECORDS_HELD))
    try:
        found = decode_payload(
            start + packed + data,
            len(head) + len(body),
            RECORDS_SIZE,
            RECORDS_TRACK,
            delta=True,
            held=held,
        )
    except ProtocolError:
        return
    (pieces,) = asked
    assert sum(count for _, count in pieces) <= REFERENCE_PIECES_MAX
    assert all(first >= 0 and count > 0 for first, count in pieces)
    if len(pieces) > 1:
        assert found.refused
        assert not found.records
        return
    sent = [_as_sent(each) for each in found.records]
    reference = Reference(pieces, RECORDS_HELD)
    again = decode_payload(
        *encode_referenced(sent, reference, 1),
        RECORDS_SIZE,
        RECORDS_TRACK,
        delta=True,
        held=held,
    )
    assert again == found


def _as_sent(record: TrackRecord) -> RunData | DeltaRun:
    if record.encoding != Encoding.XOR:
        return RunData(record.first, record.count, record.data)
    return DeltaRun(
        record.first,
        record.count,
        record.data or b"",
        record.base_hash,
        record.result_hash,
    )


TARGETS: dict[str, Target] = {
    "negotiation": negotiation,
    "requests": requests,
    "frames": frames,
    "messages": messages,
    "records": records,
    "receiver": sessions.receiver,
    "links": sessions.links,
}
