"""NBD as bytes, written down a second time: what the server's own table is held to.

Nothing here comes from `common.nbd`: a number that is wrong there must not be
wrong in the tests as well. A `Form` is how requests and replies look after the
handshake: simple, structured or extended.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

GREETING = b"NBDMAGICIHAVEOPT\x00\x03"
CLIENT_FLAGS = struct.pack(">I", 3)

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO = 1, 2, 3, 5, 6, 7
STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS = 8, 9, 10, 11

ACK = 1
ERR_UNSUP, ERR_POLICY, ERR_INVALID = 0x80000001, 0x80000002, 0x80000003
ERR_UNKNOWN = 0x80000006
ERR_EXT_HEADER_REQD = 0x8000000A

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << bit for bit in range(6))

EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP = 1, 5, 22, 28, 75, 95

COMPACT_MAGIC, EXTENDED_MAGIC = 0x25609513, 0x21E41C71
SIMPLE_REPLY_MAGIC, CHUNK_MAGIC, EXTENDED_CHUNK_MAGIC = (
    0x67446698,
    0x668E33EF,
    0x6E8A278C,
)


class Form(Enum):
    """What the handshake agreed on."""

    SIMPLE = "simple"
    STRUCTURED = "structured"
    EXTENDED = "extended"

    @property
    def is_extended(self) -> bool:
        return self is Form.EXTENDED

    @property
    def options(self) -> bytes:
        """Return what a client sends to agree on this form."""
        if self is Form.SIMPLE:
            return b""
        return option(EXTENDED_HEADERS if self.is_extended else STRUCTURED_REPLY)

    @property
    def length_max(self) -> int:
        return 2**64 - 1 if self.is_extended else 2**32 - 1


SERVED = list(Form)
"""The forms that the server agrees on."""


def option(number: int, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Return an option; `length` lies about how long its data is."""
    told = len(data) if length is None else length
    return b"IHAVEOPT" + struct.pack(">II", number, told) + data


def text(value: str | bytes, *, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(raw) if length is None else length) + raw


def infos(name: str | bytes, *wanted: int) -> bytes:
    return text(name) + struct.pack(f">H{len(wanted)}H", len(wanted), *wanted)


def queries(name: str | bytes, *asked: str | bytes) -> bytes:
    return text(name) + struct.pack(">I", len(asked)) + b"".join(map(text, asked))


def handshake(form: Form, export: str, *contexts: str) -> bytes:
    """Return all that a client sends up to transmission."""
    selected = option(SET_META, queries(export, *contexts)) if contexts else b""
    return CLIENT_FLAGS + form.options + selected + option(GO, infos(export))


def request(
    form: Form,
    command: int,
    offset: int,
    length: int,
    *,
    flags: int = 0,
    cookie: int = 0,
    payload: bytes = b"",
) -> bytes:
    """Return a request just as told, whether it makes sense or not."""
    if form.is_extended:
        fields = (EXTENDED_MAGIC, flags, command, cookie, offset, length)
        return struct.pack(">IHHQQQ", *fields) + payload
    fields = (COMPACT_MAGIC, flags, command, cookie, offset, length)
    return struct.pack(">IHHQQI", *fields) + payload


def write(
    form: Form, offset: int, data: bytes, *, flags: int = 0, cookie: int = 0
) -> bytes:
    """Return a WRITE as the form wants it."""
    if form.is_extended:
        flags |= PAYLOAD_LEN
    return request(
        form, WRITE, offset, len(data), flags=flags, cookie=cookie, payload=data
    )


def status_payload(effect_bytes: int, *context_ids: int) -> bytes:
    return struct.pack(f">Q{len(context_ids)}I", effect_bytes, *context_ids)


@dataclass
class OptionReply:
    option: int
    kind: int
    data: bytes


def option_replies(received: bytes) -> list[OptionReply]:
    """Take whole option replies apart; what is left over is an error."""
    found = []
    while received:
        magic, number, kind, length = struct.unpack_from(">QIII", received)
        assert magic == 0x3E889045565A9
        data = received[20 : 20 + length]
        assert len(data) == length
        found.append(OptionReply(number, kind, data))
        received = received[20 + length :]
    return found


@dataclass
class Reply:
    """Everything that was answered to one cookie."""

    error: int = 0
    text: bytes = b""
    runs: list[tuple[int, bytes]] = field(default_factory=list)
    """(offset, data) of each READ chunk; a simple reply's data has no offset."""
    extents: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    is_simple: bool = False
    is_done: bool = False

    def data(self, offset: int, length: int) -> bytes:
        """Return what a READ of this range was answered; it must be covered once."""
        if self.is_simple:
            ((_, data),) = self.runs or [(0, b"")]
            assert len(data) == length
            return data
        at = offset
        for start, data in sorted(self.runs):
            assert start == at
            at += len(data)
        assert at == offset + length
        return b"".join(data for _, data in sorted(self.runs))


class Replies:
    """Takes a stream of replies apart, strictly; feed it pieces of any size.

    `asked` tells (command, flags, offset, length) of a cookie: without it, a simple
    reply to a READ could not be read. A cookie may be answered once.
    """

    def __init__(self, form: Form, asked: dict[int, tuple[int, int, int, int]]) -> None:
        self.found: dict[int, Reply] = {}
        self._form = form
        self._asked = asked
        self._received = b""

    @property
    def is_between_replies(self) -> bool:
        return not self._received and all(r.is_done for r in self.found.values())

    def feed(self, received: bytes) -> list[int]:
        """Return the cookies whose answers are complete by this."""
        self._received += received
        return list(self._taken())

    def _taken(self) -> Iterator[int]:
        while len(self._received) >= 4:
            (magic,) = struct.unpack_from(">I", self._received)
            if magic == SIMPLE_REPLY_MAGIC:
                cookie = self._simple()
            else:
                cookie = self._chunk(magic)
            if cookie is None:
                return
            if self.found[cookie].is_done:
                yield cookie

    def _reply(self, cookie: int) -> Reply:
        assert cookie in self._asked, f"cookie {cookie} was not asked for"
        reply = self.found.setdefault(cookie, Reply())
        assert not reply.is_done, f"cookie {cookie} is answered twice"
        return reply

    def _simple(self) -> int | None:
        assert not self._form.is_extended, "a simple reply in extended form"
        if len(self._received) < 16:
            return None
        _, error, cookie = struct.unpack_from(">IIQ", self._received)
        assert cookie in self._asked, f"cookie {cookie} was not asked for"
        command, _, _, length = self._asked[cookie]
        end = 16
        if command == READ:
            assert self._form is Form.SIMPLE, "a simple reply to a structured READ"
            end += 0 if error else length
        assert command != STATUS or error, "a simple reply to BLOCK_STATUS"
        if len(self._received) < end:
            return None
        reply = self._reply(cookie)
        reply.error, reply.is_simple, reply.is_done = error, True, True
        if end > 16:
            reply.runs.append((0, self._received[16:end]))
        self._received = self._received[end:]
        return int(cookie)

    def _chunk(self, magic: int) -> int | None:
        assert self._form is not Form.SIMPLE, f"reply magic {magic:#x}"
        layout, expected = (
            (">IHHQQQ", EXTENDED_CHUNK_MAGIC)
            if self._form.is_extended
            else (">IHHQI", CHUNK_MAGIC)
        )
        assert magic == expected, f"reply magic {magic:#x}"
        size = struct.calcsize(layout)
        if len(self._received) < size:
            return None
        _, flags, kind, cookie, *rest = struct.unpack_from(layout, self._received)
        end = size + rest[-1]
        if len(self._received) < end:
            return None
        payload, self._received = self._received[size:end], self._received[end:]
        reply = self._reply(cookie)
        if self._form.is_extended:
            assert rest[0] == self._asked[cookie][2], "not the request's offset"
        assert flags in {0, 1}
        self._content(reply, self._asked[cookie], kind, payload)
        reply.is_done = bool(flags)
        assert kind != 0 or reply.is_done, "NONE without DONE"
        return int(cookie)

    def _content(
        self, reply: Reply, asked: tuple[int, int, int, int], kind: int, payload: bytes
    ) -> None:
        command, flags, offset, length = asked
        match kind:
            case 0:
                assert payload == b""
            case 1 | 2:
                assert command == READ
                start, data = _run(kind, payload)
                assert offset <= start
                assert start + len(data) <= offset + length
                assert not (flags & DF and (reply.runs or kind == 2))
                reply.runs.append((start, data))
            case 5 | 6:
                assert command == STATUS
                assert (kind == 6) == self._form.is_extended
                context, extents = _extents(kind, payload)
                assert context not in reply.extents
                reply.extents[context] = extents
            case 0x8001 | 0x8002:
                error, text_bytes = struct.unpack_from(">IH", payload)
                tail = 8 if kind == 0x8002 else 0
                assert error
                assert len(payload) == 6 + text_bytes + tail
                reply.error, reply.text = error, payload[6 : 6 + text_bytes]
            case _:
                raise AssertionError(f"chunk type {kind}")


def _run(kind: int, payload: bytes) -> tuple[int, bytes]:
    (start,) = struct.unpack_from(">Q", payload)
    if kind == 1:
        assert len(payload) > 8
        return start, payload[8:]
    assert len(payload) == 12
    (hole,) = struct.unpack_from(">I", payload, 8)
    assert hole
    return start, bytes(hole)


def _extents(kind: int, payload: bytes) -> tuple[int, list[tuple[int, int]]]:
    (context,) = struct.unpack_from(">I", payload)
    if kind == 5:
        extents = [(a, b) for a, b in struct.iter_unpack(">II", payload[4:])]
    else:
        (count,) = struct.unpack_from(">I", payload, 4)
        extents = [(a, b) for a, b in struct.iter_unpack(">QQ", payload[8:])]
        assert len(extents) == count
    assert extents
    assert all(length for length, _ in extents)
    return context, extents
