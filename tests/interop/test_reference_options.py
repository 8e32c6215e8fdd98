"""The same handshakes to farshore, qemu-nbd and nbdkit: the same answers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import nbd_wire as wire
from tests.support.client_commands import MIB
from tests.support.nbd_wire import Form
from tests.support.raw_peer import DROPPED, RawPeer
from tests.support.reference_servers import EXPORT, NOT_ASKED, SIZE, Row, asked

pytestmark = pytest.mark.needs_package("qemu-nbd", "nbdkit")

Exchange = Callable[[RawPeer, Form], object]
READ_WRITE, READ_WRITE_STRUCTURED = 0x0D6D, 0x0DED
READ_WRITE_EXTENDED = 0x1DED


def options(*sent: tuple[int, bytes], flags: bytes = wire.CLIENT_FLAGS) -> Exchange:
    """Send options one after the other; the answer is how each of them ended."""

    def exchange(peer: RawPeer, _form: Form) -> object:
        peer.send(flags)
        return [peer.option(number, data)[0] for number, data in sent]

    return exchange


def told_by_info(option: int, *wanted: int) -> Exchange:
    """Return the types that INFO or GO tells, and the block sizes' first two."""

    def exchange(peer: RawPeer, _form: Form) -> object:
        peer.send(wire.CLIENT_FLAGS)
        kind, replies = peer.option(option, wire.infos(EXPORT, *wanted))
        assert kind == wire.ACK
        told = {int.from_bytes(reply.data[:2], "big"): reply.data for reply in replies}
        size, _ = struct.unpack(">QH", told[0][2:])
        assert size == SIZE
        if 3 in told:
            minimum, preferred, most = struct.unpack(">III", told[3][2:])
            assert (minimum, preferred.bit_count()) == (1, 1)
            assert most >= 32 * MIB
        return sorted(told.keys() & {0, 3})

    return exchange


def flags_after(*first: tuple[int, bytes]) -> Exchange:
    """Return the transmission flags that GO tells after some options."""

    def exchange(peer: RawPeer, _form: Form) -> object:
        peer.send(wire.CLIENT_FLAGS)
        for number, data in first:
            assert peer.option(number, data)[0] == wire.ACK
        _, replies = peer.option(wire.GO, wire.infos(EXPORT))
        (flags,) = (r.data[10:12] for r in replies if r.data[:2] == b"\0\0")
        return int.from_bytes(flags, "big")

    return exchange


def contexts(option: int, *asked: str) -> Exchange:
    """Return which of the standard contexts are told."""

    def exchange(peer: RawPeer, _form: Form) -> object:
        peer.send(wire.CLIENT_FLAGS)
        assert peer.option(wire.STRUCTURED_REPLY)[0] == wire.ACK
        kind, replies = peer.option(option, wire.queries(EXPORT, *asked))
        names = {reply.data[4:].decode() for reply in replies}
        return kind, sorted(name for name in names if name.startswith("base:"))

    return exchange


def go_bytes(data: bytes) -> Exchange:
    return options((wire.GO, data), (wire.ABORT, b""))


STRUCTURED = (wire.STRUCTURED_REPLY, b"")
EXTENDED = (wire.EXTENDED_HEADERS, b"")
ERR_EXT_HEADER_REQD = 0x8000000A
BASE = (wire.SET_META, wire.queries(EXPORT, "base:allocation"))
LONG_NAME = "n" * 4096
LONGER_NAME = "n" * 4097

OLD_NBDKIT = {"nbdkit": NOT_ASKED}
"""Debian 12's tells no block sizes and takes a repeated STRUCTURED_REPLY; later
ones do as farshore does."""

NEITHER = {"qemu-nbd": NOT_ASKED, "nbdkit": NOT_ASKED}
"""Extended headers came with QEMU 8.2, which answers as farshore does."""

HANDSHAKES = [
    Row("abort", options((wire.ABORT, b"")), [wire.ACK]),
    Row(
        "an unknown option, then a known one",
        options((4711, b"any data"), (wire.LIST, b"")),
        [wire.ERR_UNSUP, wire.ACK],
    ),
    Row("the withdrawn option 4", options((4, b"")), [wire.ERR_UNSUP]),
    Row("list with data", options((wire.LIST, b"x")), [wire.ERR_INVALID]),
    Row(
        "structured twice",
        options(STRUCTURED, STRUCTURED),
        [wire.ACK, wire.ERR_INVALID],
        OLD_NBDKIT,
    ),
    Row(
        "structured with data",
        options((wire.STRUCTURED_REPLY, b"x")),
        [wire.ERR_INVALID],
    ),
    Row("contexts before structured", options(BASE), [wire.ERR_INVALID]),
    Row(
        "starttls where there is none", options((wire.STARTTLS, b"")), [wire.ERR_POLICY]
    ),
    Row(
        "an unknown export",
        options((wire.INFO, wire.infos("none")), (wire.GO, wire.infos("none"))),
        [wire.ERR_UNKNOWN, wire.ERR_UNKNOWN],
        # Its plug-in has one export, whatever a client calls it.
        {"nbdkit": [wire.ACK, wire.ACK]},
    ),
    Row(
        "an unknown export by EXPORT_NAME",
        options((wire.EXPORT_NAME, b"none")),
        [DROPPED],
        {"nbdkit": NOT_ASKED},
    ),
    Row("info with too little data", go_bytes(b"\0\0\0"), [wire.ERR_INVALID, wire.ACK]),
    Row(
        "a name longer than the data",
        go_bytes(wire.text(b"g/v", length=100) + b"\0\0"),
        [wire.ERR_INVALID, wire.ACK],
    ),
    Row(
        "a count of types that is not there",
        go_bytes(wire.text(EXPORT) + b"\0\2\0\3"),
        [wire.ERR_INVALID, wire.ACK],
    ),
    Row(
        "a name of 4097 bytes",
        go_bytes(wire.infos(LONGER_NAME)),
        [wire.ERR_INVALID, wire.ACK],
    ),
    Row(
        "a name of 4096 bytes",
        options((wire.INFO, wire.infos(LONG_NAME)), (wire.ABORT, b"")),
        [wire.ERR_UNKNOWN, wire.ACK],
        {"nbdkit": [wire.ACK, wire.ACK]},
    ),
    Row(
        "an unknown client flag",
        options((wire.LIST, b""), flags=struct.pack(">I", 0x43)),
        [DROPPED],
    ),
    Row("info alone", told_by_info(wire.INFO), [0], {"qemu-nbd": [0, 3]}),
    Row("info with block sizes", told_by_info(wire.INFO, 3), [0, 3], OLD_NBDKIT),
    Row(
        "go with types nobody knows",
        told_by_info(wire.GO, 3, 99, 4711),
        [0, 3],
        OLD_NBDKIT,
    ),
    Row("flags", flags_after(), READ_WRITE),
    Row("flags, structured", flags_after(STRUCTURED), READ_WRITE_STRUCTURED),
    Row("flags with contexts", flags_after(STRUCTURED, BASE), READ_WRITE_STRUCTURED),
    Row("flags, extended", flags_after(EXTENDED, BASE), READ_WRITE_EXTENDED, NEITHER),
    Row(
        "structured after extended",
        options(EXTENDED, STRUCTURED),
        [wire.ACK, ERR_EXT_HEADER_REQD],
        NEITHER,
    ),
    Row(
        "extended after structured, and again",
        options(STRUCTURED, EXTENDED, EXTENDED),
        [wire.ACK, wire.ACK, wire.ERR_INVALID],
        NEITHER,
    ),
    Row(
        "all contexts",
        contexts(wire.LIST_META),
        (wire.ACK, ["base:allocation"]),
    ),
    Row(
        "a namespace",
        contexts(wire.LIST_META, "base:"),
        (wire.ACK, ["base:allocation"]),
    ),
    Row(
        "a namespace is no selection", contexts(wire.SET_META, "base:"), (wire.ACK, [])
    ),
    Row("no selection", contexts(wire.SET_META), (wire.ACK, [])),
    Row(
        "contexts that nobody knows",
        contexts(wire.SET_META, "x-no:such", "base:none", "colonless"),
        (wire.ACK, []),
    ),
    Row(
        "one that is there among them",
        contexts(wire.SET_META, "x-no:such", "base:allocation"),
        (wire.ACK, ["base:allocation"]),
    ),
]


@pytest.mark.parametrize(("row", "server"), asked(HANDSHAKES))
def test_options(reference_sockets: dict[str, Path], row: Row, server: str) -> None:
    with RawPeer(reference_sockets[server]) as peer:
        assert row.exchange(peer, Form.SIMPLE) == row.expected(server)
