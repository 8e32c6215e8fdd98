"""A raw NBD client without an event loop, to put the same to several servers."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import nbd_wire as wire
from tests.support.nbd_wire import Form, OptionReply, Replies, Reply

ANSWER_SECONDS = 20.0
DROPPED = "dropped"
"""In place of an answer: the server has closed the connection."""


class DroppedError(Exception):
    """The server has closed the connection."""


class RawPeer:
    """One connection; sends what it is told to, takes answers apart strictly."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_SECONDS)
        self._socket.connect(str(path))
        assert self._take(len(wire.GREETING)) == wire.GREETING
        self.form = Form.SIMPLE
        self._asked: dict[int, tuple[int, int, int, int]] = {}
        self._replies = Replies(self.form, self._asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def _receive(self, limit: int) -> bytes:
        try:
            received = self._socket.recv(limit)
        except ConnectionResetError:
            received = b""
        if not received:
            raise DroppedError
        return received

    def _take(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            taken += self._receive(count - len(taken))
        return taken

    def option(
        self, number: int, data: bytes = b"", *, length: int | None = None
    ) -> tuple[int | str, list[OptionReply]]:
        """Send an option; return how it ended, and the replies before that."""
        self.send(wire.option(number, data, length=length))
        before: list[OptionReply] = []
        try:
            while True:
                header = self._take(20)
                told = int.from_bytes(header[16:], "big")
                (reply,) = wire.option_replies(header + self._take(told))
                assert reply.option == number
                if reply.kind == wire.ACK or reply.kind >= wire.ERR_UNSUP:
                    return reply.kind, before
                before.append(reply)
        except DroppedError:
            return DROPPED, before

    def start(self, form: Form, export: str, *contexts: str) -> None:
        """Shake hands, up to transmission."""
        self.send(wire.CLIENT_FLAGS)
        if form is Form.STRUCTURED:
            assert self.option(wire.STRUCTURED_REPLY)[0] == wire.ACK
        if form is Form.EXTENDED:
            assert self.option(wire.EXTENDED_HEADERS)[0] == wire.ACK
        if contexts:
            selected = wire.queries(export, *contexts)
            assert self.option(wire.SET_META, selected)[0] == wire.ACK
        assert self.option(wire.GO, wire.infos(export))[0] == wire.ACK
        self.form = form
        self._replies = Replies(form, self._asked)

    def ask(
        self,
        command: int,
        offset: int,
        length: int,
        *,
        flags: int = 0,
        payload: bytes | None = None,
    ) -> Reply | str:
        """Send a request and return its answer; a WRITE has zeroes if not told."""
        if payload is None:
            payload = bytes(length) if command == wire.WRITE else b""
        if command == wire.WRITE and self.form is Form.EXTENDED:
            flags |= wire.PAYLOAD_LEN
        cookie = 0x0102030405060700 + len(self._asked)
        self._asked[cookie] = (command, flags, offset, length)
        fields = (self.form, command, offset, length)
        self.send(wire.request(*fields, flags=flags, cookie=cookie, payload=payload))
        try:
            while not self._replies.found.get(cookie, Reply()).is_done:
                self._replies.feed(self._receive(1 << 16))
        except DroppedError:
            return DROPPED
        return self._replies.found[cookie]
