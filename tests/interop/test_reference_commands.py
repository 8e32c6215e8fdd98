"""The same requests to farshore, qemu-nbd and nbdkit: the same answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import nbd_wire as wire
from tests.support.client_commands import MIB
from tests.support.nbd_wire import Form
from tests.support.raw_peer import RawPeer
from tests.support.reference_servers import EXPORT, NOT_ASKED, SIZE, Row, asked

pytestmark = pytest.mark.needs_package("qemu-nbd", "nbdkit")

OK = 0


def command(
    number: int, offset: int, length: int, flags: int = 0, *, context: bool = False
) -> Callable[[RawPeer, Form], object]:
    """Ask, and return the error; the connection must go on, or be dropped."""

    def exchange(peer: RawPeer, form: Form) -> object:
        selected = ["base:allocation"] if context and form is not Form.SIMPLE else []
        peer.start(form, EXPORT, *selected)
        reply = peer.ask(number, offset, length, flags=flags)
        if isinstance(reply, str):
            return reply
        after = peer.ask(wire.READ, 0, 512)
        assert not isinstance(after, str), "the connection goes on"
        assert len(after.data(0, 512)) == 512
        return reply.error

    return exchange


QEMU_RANGE = {"qemu-nbd": wire.EINVAL}
"""The protocol asks for ENOSPC; qemu-nbd has one error for all ranges."""

COMMANDS = [
    Row("read", command(wire.READ, 0, 4096), OK),
    Row("read with FUA", command(wire.READ, 0, 4096, wire.FUA), OK),
    Row("read of odd bytes", command(wire.READ, 4093, 7), OK),
    Row("read past the end", command(wire.READ, SIZE - 1, 2), wire.EINVAL),
    Row("read at the end", command(wire.READ, SIZE, 1), wire.EINVAL),
    Row("read far off", command(wire.READ, 2**63, 512), wire.EINVAL),
    Row("read that wraps", command(wire.READ, 2**64 - 512, 1024), wire.EINVAL),
    Row("read, unknown flag", command(wire.READ, 0, 512, 1 << 9), wire.EINVAL),
    Row("read, flag of another", command(wire.READ, 0, 512, wire.NO_HOLE), wire.EINVAL),
    Row(
        "read in one piece",
        command(wire.READ, 0, 65536, wire.DF),
        OK,
        forms=(Form.STRUCTURED,),
    ),
    Row(
        "DF where it was not offered",
        command(wire.READ, 0, 512, wire.DF),
        wire.EINVAL,
        forms=(Form.SIMPLE,),
    ),
    Row("write", command(wire.WRITE, 1, 5000), OK),
    Row("write with FUA", command(wire.WRITE, 0, 512, wire.FUA), OK),
    Row(
        "write past the end",
        command(wire.WRITE, SIZE - 1, 2),
        wire.ENOSPC,
        QEMU_RANGE,
    ),
    Row("write, unknown flag", command(wire.WRITE, 0, 512, 1 << 9), wire.EINVAL),
    Row(
        "write of 33 MiB past the end",
        command(wire.WRITE, 0, 33 * MIB),
        wire.ENOSPC,
        {"qemu-nbd": NOT_ASKED},
    ),
    Row("flush", command(wire.FLUSH, 0, 0), OK),
    Row("flush with FUA", command(wire.FLUSH, 0, 0, wire.FUA), OK),
    Row("flush of a range", command(wire.FLUSH, 512, 512), OK, {"nbdkit": wire.EINVAL}),
    Row("flush, unknown flag", command(wire.FLUSH, 0, 0, 1 << 9), wire.EINVAL),
    Row("trim", command(wire.TRIM, 0, MIB), OK),
    Row("trim with FUA", command(wire.TRIM, 3, 5, wire.FUA), OK),
    Row("trim past the end", command(wire.TRIM, SIZE - 1, 2), wire.EINVAL),
    Row("trim, unknown flag", command(wire.TRIM, 0, 512, 1 << 9), wire.EINVAL),
    Row("zero", command(wire.ZEROES, 1, MIB), OK),
    Row("zero, no hole", command(wire.ZEROES, 0, 4096, wire.NO_HOLE), OK),
    Row("zero with FUA", command(wire.ZEROES, 0, 4096, wire.FUA), OK),
    Row(
        "zero past the end",
        command(wire.ZEROES, SIZE - 1, 2),
        wire.ENOSPC,
        QEMU_RANGE,
    ),
    Row("cache", command(wire.CACHE, 0, MIB), OK),
    Row("cache past the end", command(wire.CACHE, SIZE - 1, 2), wire.EINVAL),
    Row("cache, unknown flag", command(wire.CACHE, 0, 512, 1 << 9), wire.EINVAL),
    Row("status, no context", command(wire.STATUS, 0, 512), wire.EINVAL),
    Row(
        "status",
        command(wire.STATUS, 0, SIZE, context=True),
        OK,
        forms=(Form.STRUCTURED,),
    ),
    Row(
        "status, one extent",
        command(wire.STATUS, 4097, 99, wire.REQ_ONE, context=True),
        OK,
        forms=(Form.STRUCTURED,),
    ),
    Row(
        "status past the end",
        command(wire.STATUS, SIZE - 1, 2, context=True),
        wire.EINVAL,
        forms=(Form.STRUCTURED,),
    ),
    Row("a command nobody knows", command(99, 0, 512), wire.EINVAL),
]


@pytest.mark.parametrize(("row", "server"), asked(COMMANDS))
def test_commands(reference_sockets: dict[str, Path], row: Row, server: str) -> None:
    row.check(reference_sockets[server], server)
