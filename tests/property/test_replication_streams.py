"""Frames, messages and records, split anywhere and broken anywhere."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.replication.codec import decode, encode_meta
from common.replication.cycle_messages import Hashes, Tracks
from common.replication.frame import Frame, FrameParser, encode_frame
from common.replication.messages import Message
from common.replication.tracks import RunData, decode_records, encode_records
from tests.support.replication_messages import EXAMPLES

TRACK = 4096
SIZE = 60 * TRACK + 1024
MESSAGES = list(EXAMPLES.values())


def as_bytes(message: Message) -> bytes:
    kind, meta = encode_meta(message)
    payload = message.payload if isinstance(message, Tracks | Hashes) else b""
    return b"".join(encode_frame(kind, meta, payload))


STREAM = b"".join(as_bytes(message) for message in MESSAGES)


def test_a_stream_split_at_any_byte_gives_the_same_messages() -> None:
    for cut in range(len(STREAM) + 1):
        parser = FrameParser()
        frames = parser.feed(STREAM[:cut]) + parser.feed(STREAM[cut:])
        assert [decode(frame) for frame in frames] == MESSAGES


def test_a_stream_cut_short_at_any_byte_waits_for_more() -> None:
    ends = []
    for cut in range(len(STREAM)):
        parser = FrameParser()
        ends.append(len(parser.feed(STREAM[:cut])))
        assert parser.buffered_bytes < len(STREAM)
    assert ends == sorted(ends)
    assert ends[-1] == len(MESSAGES) - 1


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_a_stream_split_into_any_pieces_gives_the_same_messages(
    cuts: list[int],
) -> None:
    parser = FrameParser()
    found: list[Frame] = []
    at = 0
    for cut in [*sorted(cuts), len(STREAM)]:
        found += parser.feed(memoryview(STREAM)[at:cut])
        at = cut
    assert [decode(frame) for frame in found] == MESSAGES


@given(
    st.integers(0, len(STREAM) - 1),
    st.binary(min_size=1, max_size=12),
)
@settings(max_examples=300)
def test_a_broken_stream_gives_true_messages_and_then_an_error_or_nothing(
    position: int, junk: bytes
) -> None:
    broken = STREAM[:position] + junk + STREAM[position + len(junk) :]
    found: list[Message] = []
    parser = FrameParser()
    try:
        for at in range(0, len(broken), 50):
            found += [decode(frame) for frame in parser.feed(broken[at : at + 50])]
    except ProtocolError:
        pass
    assert found == MESSAGES[: len(found)] or broken == STREAM


@given(st.binary(max_size=300), st.integers(0, 255), st.binary(max_size=64))
@settings(max_examples=500)
def test_any_meta_is_a_message_or_an_error(
    meta: bytes, kind: int, payload: bytes
) -> None:
    try:
        message = decode(Frame(kind, meta, memoryview(payload), 0))
    except ProtocolError:
        return
    encoded_kind, _ = encode_meta(message)
    assert encoded_kind == kind


@st.composite
def runs(draw: st.DrawFn) -> list[RunData]:
    found: list[RunData] = []
    first = draw(st.integers(0, 8))
    while first < 61 and len(found) < 10:
        count = draw(st.integers(1, min(6, 61 - first)))
        length = min(count * TRACK, SIZE - first * TRACK)
        seed = draw(st.one_of(st.none(), st.binary(min_size=1, max_size=4)))
        data = None if seed is None else (seed * length)[:length]
        found.append(RunData(first, count, data))
        first += count + draw(st.integers(0, 12))
    return found


@given(runs(), st.sampled_from([None, 1, 3]))
def test_any_runs_come_out_as_they_went_in(
    given_runs: list[RunData], level: int | None
) -> None:
    payload, raw_bytes = encode_records(given_runs, level)
    found = [
        RunData(each.first, each.count, None if each.data is None else bytes(each.data))
        for each in decode_records(payload, raw_bytes, SIZE, TRACK)
    ]
    assert found == given_runs


@given(runs(), st.data(), st.booleans())
@settings(max_examples=300)
def test_records_broken_anywhere_are_refused_or_mean_something_safe(
    given_runs: list[RunData], data: st.DataObject, packed: bool
) -> None:
    payload, raw_bytes = encode_records(given_runs, 1 if packed else None)
    broken = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(broken) - 1))
        broken[position] ^= data.draw(st.integers(1, 255))
    try:
        found = decode_records(broken, raw_bytes, SIZE, TRACK)
    except ProtocolError:
        return
    # The frame's checksum guards the payload; what still decodes stays in bounds.
    seen: set[int] = set()
    for each in found:
        tracks = set(range(each.first, each.first + each.count))
        assert max(tracks) < 61
        assert not tracks & seen
        seen |= tracks
        if each.data is not None:
            length = min(each.count * TRACK, SIZE - each.first * TRACK)
            assert len(each.data) == length
