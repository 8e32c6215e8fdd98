"""Servers of others that farshore's answers are held to, and rows of a table.

A row is one exchange of bytes. Where the protocol leaves room, or a reference
departs from it, the row says what that one answers; so a later version of it that
answers otherwise shows as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.client_commands import MIB
from tests.support.nbd_wire import Form
from tests.support.raw_peer import RawPeer

EXPORT = "g/v"
SIZE = 16 * MIB
SERVERS = ("farshore", "qemu-nbd", "nbdkit")
FORMS = (Form.SIMPLE, Form.STRUCTURED)
"""Those that Debian 12's qemu-nbd and nbdkit speak."""

NOT_ASKED = object()
"""This server is left out: its answer would say nothing about the row."""


@dataclass(frozen=True)
class Row:
    """One exchange, what farshore answers, and who answers otherwise."""

    name: str
    exchange: Callable[[RawPeer, Form], object]
    answer: object
    differs: Mapping[str, object] = field(default_factory=dict)
    """The answer of each reference that is not like farshore's."""

    forms: tuple[Form, ...] = FORMS

    def expected(self, server: str) -> object:
        return self.differs.get(server, self.answer)

    def check(self, socket: Path, server: str) -> None:
        """Have the exchange in every form, over connections of their own."""
        for form in self.forms:
            with RawPeer(socket) as peer:
                assert self.exchange(peer, form) == self.expected(server), form


def asked(rows: Sequence[Row]) -> list[Any]:
    """Return every row with every server that it is put to, as test parameters."""
    return [
        pytest.param(row, server, id=f"{row.name}, {server}")
        for row in rows
        for server in SERVERS
        if row.expected(server) is not NOT_ASKED
    ]


def reference_command(name: str, file: Path, socket: Path) -> list[object]:
    """Return what starts a reference on a socket, in the foreground."""
    if name == "nbdkit":
        return ["nbdkit", "-f", "-U", socket, "memory", str(SIZE)]
    served = ["-f", "raw", "--discard=unmap", "--shared=0", "--persistent"]
    return ["qemu-nbd", *served, "-x", EXPORT, "-k", socket, file]
