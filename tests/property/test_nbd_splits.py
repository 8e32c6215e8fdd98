"""What a client says means the same however the network cuts it.

Each stream is given to its parser whole, cut once at every byte, byte by byte, and
cut anywhere many times. What comes out must be the same each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.nbd.limits import RECEIVE_BUFFER_BYTES, NbdLimits
from common.ports import HostRequest
from tests.support import nbd_wire as wire
from tests.support.nbd_parsers import SIZE, negotiation, request_stream
from tests.support.nbd_wire import SERVED, Form

FORMS = pytest.mark.parametrize("form", SERVED, ids=lambda form: form.value)

anywhere = settings(max_examples=60, deadline=None)


def pieces(stream: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Cut a stream at the given offsets."""
    start = 0
    for cut in sorted(cuts):
        yield stream[start:cut]
        start = cut
    yield stream[start:]


# The handshake


def shaken(stream: bytes, cuts: Iterable[int]) -> tuple[bytes, Any, bytes]:
    """Return the output, the outcome, and what belongs to transmission."""
    parser = negotiation()
    output, trailing = parser.take_output(), b""
    for piece in pieces(stream, cuts):
        if parser.outcome is not None:
            trailing += piece
            continue
        parser.receive(piece)
        output += parser.take_output()
    before = parser.trailing if parser.outcome is not None else b""
    return output, parser.outcome, before + trailing


def polite(form: Form) -> bytes:
    """Return a handshake that uses every option."""
    return b"".join(
        [
            wire.CLIENT_FLAGS,
            wire.option(wire.LIST),
            form.options,
            wire.option(77, b"IHAVEOPT"),
            wire.option(wire.STARTTLS),
            wire.option(wire.INFO, wire.infos("g/v", 0, 1, 2, 3, 99)),
            wire.option(wire.INFO, wire.infos("none")),
            wire.option(wire.LIST_META, wire.queries("g/v")),
            wire.option(wire.SET_META, wire.queries("g/v", "base:allocation", "x:")),
            wire.option(wire.SET_META, wire.queries("g/v", "base:allocation")),
            wire.option(wire.GO, wire.infos("g/v", 3)),
            wire.request(form, wire.READ, 0, 4),
        ]
    )


HANDSHAKES = [
    *(pytest.param(polite(form), id=f"polite {form.value}") for form in SERVED),
    pytest.param(
        b"\0\0\0\1" + wire.option(wire.EXPORT_NAME, b"g/v") + b"after", id="the old way"
    ),
    pytest.param(wire.CLIENT_FLAGS + wire.option(wire.ABORT) + b"after", id="abort"),
    pytest.param(wire.CLIENT_FLAGS + wire.option(wire.EXPORT_NAME, b"x"), id="unknown"),
    pytest.param(b"\0\0\0\4" + wire.option(wire.LIST), id="client flags"),
    pytest.param(wire.CLIENT_FLAGS + b"IHAVEOPU" + bytes(20), id="magic"),
    pytest.param(
        wire.CLIENT_FLAGS + wire.option(wire.LIST, length=(64 << 10) + 1) + bytes(9),
        id="too long",
    ),
    pytest.param(
        wire.CLIENT_FLAGS
        + wire.option(wire.GO, wire.text("g/v", length=2**32 - 1))
        + wire.option(wire.GO, wire.text("n" * 30))
        + wire.option(wire.SET_META, b"\xff")
        + wire.option(wire.GO, wire.infos(b"\xff"))
        + wire.option(wire.GO, wire.infos("g/v")),
        id="lengths that lie",
    ),
    pytest.param(wire.CLIENT_FLAGS + wire.option(77) * 40, id="without end"),
]


@pytest.mark.parametrize("stream", HANDSHAKES)
def test_a_handshake_cut_at_every_byte(stream: bytes) -> None:
    whole = shaken(stream, [])
    for cut in range(1, len(stream)):
        assert shaken(stream, [cut]) == whole, cut
    assert shaken(stream, range(1, len(stream))) == whole


@given(st.data())
@anywhere
def test_a_handshake_cut_anywhere(data: st.DataObject) -> None:
    stream = polite(data.draw(st.sampled_from(SERVED)))
    cuts = data.draw(st.sets(st.integers(1, len(stream) - 1)))
    assert shaken(stream, cuts) == shaken(stream, [])


@given(st.binary(max_size=300), st.data())
@anywhere
def test_garbage_for_a_handshake_cut_anywhere(
    stream: bytes, data: st.DataObject
) -> None:
    stream = wire.CLIENT_FLAGS + wire.option(wire.LIST) + stream
    cuts = data.draw(st.sets(st.integers(1, len(stream) - 1)))
    assert shaken(stream, cuts) == shaken(stream, [])


# The requests


class Taken:
    """Feeds a `RequestStream`; keeps what it hands out, and how it ended.

    Requests are completed at once, or only when the stream waits for that. Until
    then nobody may touch their payloads.
    """

    def __init__(
        self, form: Form, *, at_once: bool = True, limits: NbdLimits | None = None
    ) -> None:
        self.answers: list[bytes] = []
        self.requests: list[tuple[object, ...]] = []
        self._at_once = at_once
        self._running: list[tuple[HostRequest, bytes, Any]] = []
        self._stream = request_stream(
            form, limits or NbdLimits(), self.answers.append, self._completed
        )

    @property
    def outcome(self) -> tuple[object, ...]:
        return self.requests, b"".join(self.answers), self._stream.ended

    def feed(self, piece: bytes) -> None:
        while piece and self._stream.ended is None:
            memory = self._stream.writable()
            count = min(len(memory), len(piece))
            assert count
            memory[:count] = piece[:count]
            piece = piece[count:]
            self._stream.received(count)
            self._take()

    def complete_all(self) -> None:
        running, self._running = self._running, []
        for request, payload, complete in running:
            assert bytes(request.data or b"") == payload
            complete([request])

    def _take(self) -> None:
        stream = self._stream
        while True:
            in_flight = len(self._running)
            batch = stream.take(in_flight, sum(len(p) for _, p, _ in self._running))
            for request in batch:
                payload = bytes(request.data or b"")
                self._running.append((request, payload, stream.batch_complete))
                self.requests.append(
                    (
                        *(request.command, request.offset, request.length, payload),
                        *(request.fua, request.no_hole, request.fast),
                        *(request.sparse_ok, request.contexts, request.cookie),
                    )
                )
            if self._at_once or (stream.is_stopped and self._running):
                self.complete_all()
                if stream.is_stopped or stream.has_more:
                    continue
            if not (batch and stream.has_more):
                return

    def _completed(self, _requests: list[HostRequest]) -> None:
        pass


def taken(
    form: Form,
    stream: bytes,
    cuts: Iterable[int],
    *,
    at_once: bool = True,
    limits: NbdLimits | None = None,
) -> tuple[object, ...]:
    parser = Taken(form, at_once=at_once, limits=limits)
    for piece in pieces(stream, cuts):
        parser.feed(piece)
    parser.complete_all()
    return parser.outcome


def commands(form: Form) -> list[bytes]:
    """Return requests of every kind, good and bad."""
    said = [
        wire.write(form, 10, b"\x25\x60\x95\x13\x21\xe4\x1c\x71", cookie=1),
        wire.request(form, wire.READ, 0, 100, cookie=2**64 - 1),
        wire.write(form, SIZE, b"past the end", cookie=3),
        wire.request(form, wire.FLUSH, 0, 0, flags=wire.FUA, cookie=4),
        wire.write(form, 0, b"a flag", flags=wire.NO_HOLE, cookie=5),
        wire.request(form, wire.STATUS, 0, SIZE, flags=wire.REQ_ONE, cookie=6),
        wire.request(form, wire.ZEROES, 5, 6, flags=wire.NO_HOLE, cookie=7),
        wire.write(form, 0, b"", cookie=8),
        wire.request(form, wire.READ, 5, 0, cookie=9),
        wire.request(form, 99, 0, 0, cookie=10),
        wire.request(form, wire.READ, 2**64 - 1, 2, cookie=11),
        wire.write(form, 0, b"x" * 60, flags=wire.FUA, cookie=12),
        wire.request(form, wire.TRIM, 0, 5, cookie=13),
        wire.request(form, wire.CACHE, 0, 5, cookie=14),
    ]
    if form.is_extended:
        said += [
            wire.request(
                form,
                wire.STATUS,
                0,
                len(payload),
                flags=wire.PAYLOAD_LEN,
                cookie=20 + n,
                payload=payload,
            )
            for n, payload in enumerate(STATUS_PAYLOADS)
        ]
        said += [
            wire.request(
                form,
                command,
                0,
                9,
                flags=wire.PAYLOAD_LEN,
                cookie=40 + command,
                payload=b"unwanted!",
            )
            for command in (wire.READ, wire.FLUSH, wire.TRIM, wire.ZEROES, 99)
        ]
    return said


STATUS_PAYLOADS = [
    wire.status_payload(100, 1),
    wire.status_payload(100),
    wire.status_payload(100, 1, 1),
    wire.status_payload(100, 77),
    wire.status_payload(2**64 - 1, 1),
    wire.status_payload(0, 1),
    b"short",
    b"nine bytes, then three"[:11],
]


def endings(form: Form) -> list[bytes]:
    other = Form.SIMPLE if form.is_extended else Form.EXTENDED
    return [
        b"",
        wire.request(form, wire.DISC, 7, 9, flags=0xFFFF) + b"what follows",
        b"garbage" * 10,
        wire.request(other, wire.READ, 0, 9) * 2,
        wire.request(
            form,
            wire.WRITE,
            0,
            form.length_max,
            flags=wire.PAYLOAD_LEN if form.is_extended else 0,
        )
        + b"what follows",
    ]


LIMITS = [
    NbdLimits(),
    NbdLimits(requests_in_flight_max=1, receive_buffers_max=1),
    NbdLimits(bytes_in_flight_max=70, requests_in_flight_max=3),
    NbdLimits(payload_bytes_max=50, payload_bytes_drained_max=70),
]


@FORMS
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("limits", LIMITS, ids=["default", "one", "bytes", "drained"])
def test_requests_cut_at_every_byte(
    form: Form, at_once: bool, limits: NbdLimits
) -> None:
    for ending in endings(form):
        stream = b"".join(commands(form)) + ending
        whole = taken(form, stream, [], limits=limits)
        for cut in range(1, len(stream)):
            cuts = [cut]
            assert taken(form, stream, cuts, at_once=at_once, limits=limits) == whole
        cuts = list(range(1, len(stream)))
        assert taken(form, stream, cuts, at_once=at_once, limits=limits) == whole


@FORMS
@given(data=st.data())
@anywhere
def test_requests_in_any_order_cut_anywhere(form: Form, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(commands(form)), max_size=25))
    stream = b"".join(chosen) + data.draw(st.sampled_from(endings(form)))
    cuts = data.draw(st.sets(st.integers(0, len(stream))))
    limits = data.draw(st.sampled_from(LIMITS))
    at_once = data.draw(st.booleans())
    found = taken(form, stream, cuts, at_once=at_once, limits=limits)
    assert found == taken(form, stream, [], limits=limits)


@FORMS
@given(data=st.data(), length=st.integers(1, 400))
@anywhere
def test_almost_requests_cut_anywhere(
    form: Form, data: st.DataObject, length: int
) -> None:
    """Right magic, any other bytes: most are wrong, some take payloads along."""
    size = 32 if form.is_extended else 28
    stream = b"".join(
        data.draw(st.sampled_from(commands(form)))[:4]
        + data.draw(st.sampled_from([bytes(2), b"\0\1", b"\0\x20", b"\xff\xff"]))
        + bytes([0, data.draw(st.integers(0, 9))])
        + data.draw(st.binary(min_size=size - 8, max_size=size - 8))
        for _ in range(length // size + 1)
    )
    cuts = data.draw(st.sets(st.integers(0, len(stream))))
    assert taken(form, stream, cuts) == taken(form, stream, [])


@FORMS
@pytest.mark.parametrize("at_once", [True, False])
def test_long_payloads_cut_where_buffers_end(form: Form, at_once: bool) -> None:
    payload = bytes(range(256)) * ((RECEIVE_BUFFER_BYTES + 70_000) // 256)
    long = wire.write(form, 0, payload, cookie=5)
    near = wire.write(form, 1, payload[: RECEIVE_BUFFER_BYTES - 100], cookie=6)
    refused = wire.write(form, SIZE, payload, cookie=7)
    last = wire.request(form, wire.READ, 0, 9, cookie=8)
    stream = long + near + refused + near + last
    whole = taken(form, stream, [])
    requests, _, ended = whole
    assert isinstance(requests, list)
    assert [request[-1] for request in requests] == [5, 6, 6, 8]
    assert ended is None
    starts = [0, len(long), len(long + near), len(long + near + refused)]
    marks = [0, *starts, len(stream) - len(last), RECEIVE_BUFFER_BYTES]
    for mark in marks:
        for cut in [mark - 1, *range(mark, mark + 34)]:
            assert taken(form, stream, [max(cut, 0)], at_once=at_once) == whole, cut
