"""What a client says means the same however the network cuts it.

Each stream is given to its parser whole, cut once at every byte, byte by byte, and
cut anywhere many times. What comes out must be the same each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.nbd.limits import RECEIVE_BUFFER_BYTES, NbdLimits
from tests.support import nbd_wire as wire
from tests.support.nbd_parsers import SIZE, Taken, negotiation, pieces
from tests.support.nbd_streams import commands, endings, handshakes, polite
from tests.support.nbd_wire import SERVED, Form

FORMS = pytest.mark.parametrize("form", SERVED, ids=lambda form: form.value)

anywhere = settings(max_examples=60, deadline=None)


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


@pytest.mark.parametrize("stream", handshakes())
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


LIMITS = [
    NbdLimits(),
    NbdLimits(requests_in_flight_max=1, receive_buffers_max=1),
    NbdLimits(bytes_in_flight_max=70, requests_in_flight_max=3),
    NbdLimits(payload_bytes_max=50, payload_bytes_drained_max=70),
]


@FORMS
@pytest.mark.parametrize(
    ("limits", "at_once"),
    [(LIMITS[0], True), (LIMITS[1], False), (LIMITS[2], False), (LIMITS[3], True)],
    ids=["default", "one", "bytes", "drained"],
)
def test_requests_cut_at_every_byte(
    form: Form, limits: NbdLimits, at_once: bool
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
