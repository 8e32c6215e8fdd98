"""Random request streams, cut anywhere, answered as a plain model answers them.

The transport is a list of what was written; the volume completes at once or when
told to, in any order. What is compared: every answer, and the volume's content
when requests run in order.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.nbd.limits import RECEIVE_BUFFER_BYTES, NbdLimits
from common.nbd.outcome import Agreed
from common.nbd.protocol import WireForm
from common.nbd.transmission import Transmission
from tests.support.memory_volume import MemoryVolume

SIZE = 3 * 4096 + 77
FUA, NO_HOLE, DF, REQ_ONE = 1, 2, 4, 8
READ, WRITE, FLUSH, TRIM, CACHE, ZEROES, STATUS = 0, 1, 3, 4, 5, 6, 7


class RecordingTransport:
    """Takes what is written; remembers whether it should be reading."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.reading = False
        self.closing = False
        # What the system would still hold: a closed socket holds nothing.
        self._socket = socket.socket()
        self._socket.close()

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self._socket

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0

    def writelines(self, buffers: list[bytes]) -> None:
        assert not self.closing
        for buffer in buffers:
            self.written += buffer

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def close(self) -> None:
        self.closing = True

    abort = close


@dataclass(frozen=True)
class Asked:
    command: int
    flags: int
    offset: int
    length: int
    fill: int

    def data(self) -> bytes:
        return bytes((self.fill + n) % 256 for n in range(self.length))

    def wire(self, cookie: int) -> bytes:
        fields = (self.flags, self.command, cookie, self.offset, self.length)
        header = struct.pack(">IHHQQI", 0x25609513, *fields)
        return header + (self.data() if self.command == WRITE else b"")


ALLOWED = {ZEROES: FUA | NO_HOLE, STATUS: FUA | REQ_ONE, READ: FUA | DF}


class Model:
    """What a volume of plain bytes answers: an error number or data."""

    def __init__(self, *, read_only: bool) -> None:
        self.content = bytearray(SIZE)
        self.read_only = read_only

    def answer(self, asked: Asked) -> int | bytes:
        error = self.error(asked)
        if error:
            return error
        stop = asked.offset + asked.length
        if asked.command == READ:
            return bytes(self.content[asked.offset : stop])
        if asked.command == WRITE:
            self.content[asked.offset : stop] = asked.data()
        if asked.command in {TRIM, ZEROES}:
            self.content[asked.offset : stop] = bytes(asked.length)
        return 0

    def error(self, asked: Asked) -> int:
        if asked.command not in {READ, WRITE, FLUSH, TRIM, CACHE, ZEROES, STATUS}:
            return 22
        if self.read_only and asked.command in {WRITE, TRIM, ZEROES}:
            return 1
        if asked.flags & ~ALLOWED.get(asked.command, FUA):
            return 22
        if asked.command == FLUSH:
            return 0
        if asked.command == STATUS and not asked.length:
            return 22
        if asked.offset + asked.length > SIZE:
            full = asked.command in {WRITE, ZEROES}
            return 28 if full and asked.offset + asked.length < 2**64 else 22
        return 0


def answers(written: bytes, asked: list[Asked]) -> dict[int, int | bytes]:
    """Take replies apart; each request may be answered once."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(written):
        (magic,) = struct.unpack_from(">I", written, at)
        if magic == 0x67446698:
            _, error, cookie = struct.unpack_from(">IIQ", written, at)
            answer: int | bytes = error
            at += 16
        else:
            header = struct.unpack_from(">IHHQI", written, at)
            magic, flags, kind, cookie, length = header
            assert (magic, flags) == (0x668E33EF, 1)
            payload = written[at + 20 : at + 20 + length]
            assert len(payload) == length
            at += 20 + length
            answer = chunk_answer(kind, payload, asked[cookie])
        assert cookie not in found
        found[cookie] = answer
    return found


def chunk_answer(kind: int, payload: bytes, asked: Asked) -> int | bytes:
    if kind == 0:
        assert payload == b""
        return b""
    if kind == 1:
        assert struct.unpack_from(">Q", payload) == (asked.offset,)
        return payload[8:]
    if kind == 5:
        extents = list(struct.iter_unpack(">II", payload[4:]))
        assert extents
        assert sum(length for length, _ in extents) <= asked.length
        assert not asked.flags & REQ_ONE or len(extents) == 1
        return 0
    assert kind == 0x8001
    error, length = struct.unpack_from(">IH", payload)
    assert len(payload) == 6 + length
    return int(error)


offsets = st.one_of(
    st.integers(0, SIZE + 2), st.sampled_from([0, SIZE - 1, SIZE, 2**64 - 1])
)
requests = st.builds(
    Asked,
    command=st.sampled_from(
        [READ, WRITE, WRITE, FLUSH, TRIM, CACHE, ZEROES, STATUS, 9]
    ),
    flags=st.sampled_from([0, 0, 0, FUA, NO_HOLE, DF, REQ_ONE, 0x8000]),
    offset=offsets,
    length=st.one_of(st.integers(0, 300), st.integers(0, SIZE)),
    fill=st.integers(0, 255),
)


def feed(transmission: Transmission, data: bytes) -> int:
    """Give the transmission what it has room for, as a socket read would."""
    memory = transmission.get_buffer(-1)
    assert len(memory) > 0
    count = min(len(memory), len(data))
    memory[:count] = data[:count]
    transmission.buffer_updated(count)
    return count


async def drive(
    asked: list[Asked],
    volume: MemoryVolume,
    limits: NbdLimits,
    cut: Callable[[], int],
    pick: Callable[[int], int],
) -> bytes:
    """Send all requests in pieces of `cut()` bytes; return what was written."""
    transport = RecordingTransport()
    closed: list[Transmission] = []
    volume.opened_count += 1
    transmission = Transmission(
        transport,  # type: ignore[arg-type]
        volume,
        Agreed("g/v", WireForm.STRUCTURED, ((1, "base:allocation"),)),
        limits,
        closed.append,
        peer="test",
    )
    transmission.start(b"")
    wire = b"".join(request.wire(n) for n, request in enumerate(asked))
    while wire or volume.waiting:
        if wire and transport.reading:
            wire = wire[feed(transmission, wire[: cut()]) :]
        elif volume.waiting:
            volume.waiting.insert(0, volume.waiting.pop(pick(len(volume.waiting))))
            volume.step()
        await asyncio.sleep(0)
    transmission.eof_received()
    await asyncio.sleep(0)
    assert transport.closing
    transmission.connection_lost(None)
    assert closed == [transmission]
    assert volume.released_count == 1
    return bytes(transport.written)


slow = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@given(st.lists(requests, max_size=30), st.data(), st.booleans())
@slow
async def test_requests_that_run_in_order_are_answered_as_the_model_does(
    asked: list[Asked], data: st.DataObject, read_only: bool
) -> None:
    volume = MemoryVolume(SIZE, read_only=read_only)
    model = Model(read_only=read_only)
    sizes = st.integers(1, data.draw(st.sampled_from([1, 30, 500, 100_000])))
    limits = NbdLimits(
        requests_in_flight_max=data.draw(st.integers(1, 5)),
        bytes_in_flight_max=data.draw(st.integers(1, 20_000)),
        receive_buffers_max=1,
    )
    written = await drive(asked, volume, limits, lambda: data.draw(sizes), lambda _: 0)
    expected = {n: model.answer(request) for n, request in enumerate(asked)}
    assert answers(written, asked) == expected
    assert volume.content == model.content


@given(st.lists(requests, max_size=30), st.data())
@slow
async def test_requests_that_end_in_any_order_are_all_answered(
    asked: list[Asked], data: st.DataObject
) -> None:
    volume = MemoryVolume(SIZE, held=True)
    model = Model(read_only=False)
    limits = NbdLimits(requests_in_flight_max=data.draw(st.integers(1, 40)))
    written = await drive(
        asked,
        volume,
        limits,
        lambda: data.draw(st.integers(1, 10_000)),
        lambda count: data.draw(st.integers(0, count - 1)),
    )
    found = answers(written, asked)
    assert sorted(found) == list(range(len(asked)))
    for n, request in enumerate(asked):
        answer = found[n]
        error = answer if isinstance(answer, int) else 0
        assert error == model.error(request)


@given(
    st.lists(
        st.integers(0, 2 * RECEIVE_BUFFER_BYTES) | st.integers(0, 100_000), max_size=12
    ),
    st.data(),
)
@slow
async def test_payloads_of_any_size_arrive_where_they_belong(
    lengths: list[int], data: st.DataObject
) -> None:
    total = sum(lengths)
    volume = MemoryVolume(total + 1, held=data.draw(st.booleans()))
    asked, offset = [], 0
    expected = bytearray(total + 1)
    for n, length in enumerate(lengths):
        request = BlockWrite(WRITE, 0, offset, length, n + 1)
        expected[offset : offset + length] = request.data()
        asked.append(request)
        offset += length
    limits = NbdLimits(
        requests_in_flight_max=data.draw(st.integers(1, 8)),
        receive_buffers_max=data.draw(st.integers(1, 3)),
    )
    cuts = st.sampled_from([RECEIVE_BUFFER_BYTES, 212_992, 70_000, 9_999_999])
    written = await drive(
        list(asked),
        volume,
        limits,
        lambda: data.draw(cuts),
        lambda count: data.draw(st.integers(0, count - 1)),
    )
    assert answers(written, list(asked)) == dict.fromkeys(range(len(lengths)), 0)
    assert volume.content == expected


class BlockWrite(Asked):
    """A large WRITE, quick to make: one byte repeated."""

    def data(self) -> bytes:
        return bytes([self.fill]) * self.length


async def test_one_stream_cut_at_every_byte_gives_the_same_answers() -> None:
    asked = [
        Asked(WRITE, FUA, 10, 50, 1),
        Asked(READ, 0, 0, 100, 0),
        Asked(WRITE, NO_HOLE, 0, 9, 2),
        Asked(STATUS, REQ_ONE, 0, SIZE, 0),
        Asked(WRITE, 0, SIZE, 30, 3),
        Asked(TRIM, 0, 20, 5, 0),
        Asked(READ, DF, 10, 50, 0),
        Asked(FLUSH, 0, 0, 0, 0),
    ]
    wire = b"".join(request.wire(n) for n, request in enumerate(asked))
    model = Model(read_only=False)
    expected = {n: model.answer(request) for n, request in enumerate(asked)}
    for at in range(1, len(wire)):
        pieces = iter([at, *[len(wire)] * 9])
        volume = MemoryVolume(SIZE)
        written = await drive(
            asked, volume, NbdLimits(), functools.partial(next, pieces), lambda _: 0
        )
        assert answers(written, asked) == expected
        assert volume.content == model.content
