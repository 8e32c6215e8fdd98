"""Conversations of NBD clients as bytes: good, bad, and cut off.

The tests that cut streams and the fuzzers start from these.
"""

from __future__ import annotations

from tests.support import nbd_wire as wire
from tests.support.nbd_parsers import SIZE
from tests.support.nbd_wire import SERVED, Form


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


def handshakes() -> list[bytes]:
    """Return whole handshakes, from the client's flags on."""
    flags = wire.CLIENT_FLAGS
    lies = [
        wire.option(wire.GO, wire.text("g/v", length=2**32 - 1)),
        wire.option(wire.GO, wire.text("n" * 30)),
        wire.option(wire.SET_META, b"\xff"),
        wire.option(wire.GO, wire.infos(b"\xff")),
        wire.option(wire.GO, wire.infos("g/v")),
    ]
    return [
        *map(polite, SERVED),
        b"\0\0\0\1" + wire.option(wire.EXPORT_NAME, b"g/v") + b"after",
        flags + wire.option(wire.ABORT) + b"after",
        flags + wire.option(wire.EXPORT_NAME, b"unknown"),
        b"\0\0\0\4" + wire.option(wire.LIST),
        flags + b"IHAVEOPU" + bytes(20),
        flags + wire.option(wire.LIST, length=(64 << 10) + 1) + bytes(9),
        flags + b"".join(lies),
        flags + wire.option(77) * 40,
    ]


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
        wire.request(form, wire.READ, 3, 5, flags=wire.DF, cookie=15),
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
    wire.status_payload(100, 2, 1),
    wire.status_payload(100, 2),
    wire.status_payload(100, 77),
    wire.status_payload(2**64 - 1, 1),
    wire.status_payload(0, 1),
    b"short",
    b"eleven byte",
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
