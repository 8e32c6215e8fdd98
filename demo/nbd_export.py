"""An NBD client for one export: blocking, one request at a time, plain replies.

What a database's storage layer needs and no more. Source of the rules: the NBD
project's doc/proto.md.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Final, Self

from common.nbd.protocol import (
    CLIENT_FLAGS,
    GREETING,
    GREETING_MAGIC,
    INFO_EXPORT,
    OPTION_HEADER,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    UINT16,
    UINT32,
    Command,
    HandshakeFlag,
    Info,
    Option,
    OptionReply,
)

ANSWER_SECONDS_MAX: Final = 20.0
"""A daemon that is silent for longer is taken for dead."""

OPTION_REPLIES_MAX: Final = 16
"""GO tells a handful of facts; a server that goes on for ever is no server."""


class NbdExport:
    """One connection to one export; usable from one thread at a time.

    Every method raises OSError once the server refuses, errs or is gone. A write
    is durable only after a `flush` that began after it returned.
    """

    def __init__(self, socket_path: str, name: str) -> None:
        self.name = name
        self._cookie = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(ANSWER_SECONDS_MAX)
            self._socket.connect(socket_path)
            self.size_bytes = self._negotiate()
        except BaseException:
            self._socket.close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        return self._ask(Command.READ, offset, length)

    def write(self, offset: int, data: bytes) -> None:
        self._ask(Command.WRITE, offset, len(data), data)

    def flush(self) -> None:
        self._ask(Command.FLUSH, 0, 0)

    def close(self) -> None:
        """Say goodbye if the server still listens; close in any case."""
        try:
            goodbye = REQUEST.pack(REQUEST_MAGIC, 0, Command.DISC, 0, 0, 0)
            self._socket.sendall(goodbye)
        except OSError:
            pass  # it has left already
        finally:
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _negotiate(self) -> int:
        """Agree on the export with GO; return its size in bytes."""
        magic, option_magic, _ = GREETING.unpack(self._receive(GREETING.size))
        if magic != GREETING_MAGIC or option_magic != OPTION_MAGIC.to_bytes(8, "big"):
            raise ConnectionError("what answers is no NBD server")
        flags = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
        name = self.name.encode()
        data = UINT32.pack(len(name)) + name + UINT16.pack(0)
        header = OPTION_HEADER.pack(OPTION_MAGIC, Option.GO, len(data))
        self._socket.sendall(CLIENT_FLAGS.pack(flags) + header + data)
        size_bytes = -1
        for _ in range(OPTION_REPLIES_MAX):
            kind, payload = self._option_reply()
            if kind == OptionReply.ACK and size_bytes >= 0:
                return size_bytes
            if kind >= OptionReply.ERR_UNSUP:
                reason = payload.decode(errors="replace")
                raise ConnectionError(f"export {self.name} was refused: {reason}")
            if kind == OptionReply.INFO and payload[:2] == UINT16.pack(Info.EXPORT):
                _, size_bytes, _ = INFO_EXPORT.unpack(payload)
        raise ConnectionError("the NBD server never came to an end with GO")

    def _option_reply(self) -> tuple[int, bytes]:
        header = OPTION_REPLY.unpack(self._receive(OPTION_REPLY.size))
        magic, _, kind, length = header
        if magic != OPTION_REPLY_MAGIC:
            raise ConnectionError("what answers is no NBD server")
        return kind, self._receive(length)

    def _ask(
        self, command: Command, offset: int, length: int, data: bytes = b""
    ) -> bytes:
        self._cookie += 1
        cookie = self._cookie
        request = REQUEST.pack(REQUEST_MAGIC, 0, command, cookie, offset, length)
        self._socket.sendall(request + data)
        reply = SIMPLE_REPLY.unpack(self._receive(SIMPLE_REPLY.size))
        if reply[0] != SIMPLE_REPLY_MAGIC or reply[2] != cookie:
            raise ConnectionError(f"export {self.name} answered what was not asked")
        if reply[1]:
            raise OSError(reply[1], f"{command.name} failed on export {self.name}")
        return self._receive(length) if command == Command.READ else b""

    def _receive(self, length: int) -> bytes:
        received = bytearray(length)
        view = memoryview(received)
        while view:
            count = self._socket.recv_into(view)
            if count == 0:
                raise ConnectionResetError(f"the server of {self.name} hung up")
            view = view[count:]
        return bytes(received)
