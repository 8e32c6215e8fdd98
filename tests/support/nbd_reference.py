"""What a stream of requests means, read the slow and plain way.

One pass over all of the bytes, no buffers, no limits in flight: what the parser of
the server is compared with. Written from the protocol, not from the server.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.support import nbd_wire as wire
from tests.support.nbd_wire import Form


@dataclass
class Understood:
    """Requests for the volume, requests answered without it, and the end."""

    requests: list[tuple[object, ...]] = field(default_factory=list)
    """(command, offset, length, payload, fua, no_hole, sparse_ok, contexts, cookie);
    of a FLUSH, the offset is left out."""
    answers: list[tuple[int, int]] = field(default_factory=list)
    """(cookie, error)."""
    end: str = "open"
    """"open", "bye" (DISC), or "refused" (hung up on)."""


@dataclass(frozen=True)
class Bounds:
    """The export and the limits that a request is judged by."""

    size_bytes: int
    payload_bytes_max: int
    payload_bytes_drained_max: int
    context_ids: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    flags: int
    command: int
    cookie: int
    offset: int
    length: int


def understood(form: Form, stream: bytes, bounds: Bounds) -> Understood:
    found = Understood()
    layout, magic = (
        (">IHHQQQ", wire.EXTENDED_MAGIC)
        if form.is_extended
        else (">IHHQQI", wire.COMPACT_MAGIC)
    )
    header_bytes, at = struct.calcsize(layout), 0
    while at + header_bytes <= len(stream):
        told, *fields = struct.unpack_from(layout, stream, at)
        header = Header(*fields)
        at += header_bytes
        if told != magic:
            found.end = "refused"
            break
        if header.command == wire.DISC:
            found.end = "bye"
            break
        payload_bytes = _payload_bytes(form, header)
        if payload_bytes > (
            bounds.payload_bytes_drained_max
            if header.command == wire.WRITE
            else bounds.payload_bytes_max
        ):
            found.end = "refused"
            break
        if at + payload_bytes > len(stream):
            break
        _judge(form, header, stream[at : at + payload_bytes], bounds, found)
        at += payload_bytes
    return found


def _payload_bytes(form: Form, header: Header) -> int:
    if header.command == wire.WRITE:
        return header.length
    if form.is_extended and header.flags & wire.PAYLOAD_LEN:
        return header.length
    return 0


def _judge(
    form: Form, header: Header, payload: bytes, bounds: Bounds, found: Understood
) -> None:
    """Sort one whole request into those that run and those that are answered."""
    command, length, ids = header.command, header.length, bounds.context_ids
    flags = header.flags
    if command == wire.STATUS and payload:
        chosen = _chosen(payload, bounds)
        if chosen is None:
            found.answers.append((header.cookie, wire.EINVAL))
            return
        (length, ids), flags = chosen, flags & ~wire.PAYLOAD_LEN
    error = _error(form, command, flags, header.offset, length, bounds)
    if payload and command not in {wire.WRITE, wire.STATUS}:
        error = wire.EINVAL
    if error or (not length and command != wire.FLUSH):
        found.answers.append((header.cookie, error))
        return
    is_sparse = command == wire.READ and form is not Form.SIMPLE and not flags & wire.DF
    found.requests.append(
        (
            command,
            0 if command == wire.FLUSH else header.offset,
            0 if command == wire.FLUSH else length,
            payload if command == wire.WRITE else b"",
            bool(flags & wire.FUA),
            bool(flags & wire.NO_HOLE),
            is_sparse,
            ids if command == wire.STATUS else (),
            header.cookie,
        )
    )


def _chosen(payload: bytes, bounds: Bounds) -> tuple[int, tuple[int, ...]] | None:
    """Return the range's length and the contexts that a payload asks about."""
    if len(payload) < 12 or (len(payload) - 8) % 4:
        return None
    (length,) = struct.unpack_from(">Q", payload)
    ids = tuple(value for (value,) in struct.iter_unpack(">I", payload[8:]))
    if len(set(ids)) != len(ids) or not set(ids) <= set(bounds.context_ids):
        return None
    return length, ids


def _error(
    form: Form, command: int, flags: int, offset: int, length: int, bounds: Bounds
) -> int:
    allowed = {
        wire.READ: wire.FUA | (0 if form is Form.SIMPLE else wire.DF),
        wire.WRITE: wire.FUA | (wire.PAYLOAD_LEN if form.is_extended else 0),
        wire.ZEROES: wire.FUA | wire.NO_HOLE,
        wire.STATUS: wire.FUA | wire.REQ_ONE,
    }.get(command, wire.FUA)
    if command > wire.STATUS or flags & ~allowed:
        return wire.EINVAL
    if command == wire.FLUSH:
        return 0
    if command == wire.STATUS and not (bounds.context_ids and length):
        return wire.EINVAL
    end = offset + length
    if end > bounds.size_bytes:
        is_full = command in {wire.WRITE, wire.ZEROES} and end < 2**64
        return wire.ENOSPC if is_full else wire.EINVAL
    if command in {wire.READ, wire.WRITE} and length > bounds.payload_bytes_max:
        is_read = command == wire.READ and form is not Form.SIMPLE
        return wire.EOVERFLOW if is_read else wire.EINVAL
    return 0


def answer(form: Form, reply: bytes) -> tuple[int, int]:
    """Return (cookie, error) of one whole reply that carries no data."""
    (magic,) = struct.unpack_from(">I", reply)
    if magic == wire.SIMPLE_REPLY_MAGIC:
        assert not form.is_extended
        assert len(reply) == 16
        _, error, cookie = struct.unpack(">IIQ", reply)
        return cookie, error
    assert form is not Form.SIMPLE
    layout, expected = (
        (">IHHQQQ", wire.EXTENDED_CHUNK_MAGIC)
        if form.is_extended
        else (">IHHQI", wire.CHUNK_MAGIC)
    )
    assert magic == expected
    _, flags, kind, cookie, *rest = struct.unpack_from(layout, reply)
    payload = reply[struct.calcsize(layout) :]
    assert flags == 1
    assert len(payload) == rest[-1]
    if kind == 0:
        assert not payload
        return cookie, 0
    assert kind == 0x8001
    error, text_bytes = struct.unpack_from(">IH", payload)
    assert error
    assert len(payload) == 6 + text_bytes
    return cookie, error
