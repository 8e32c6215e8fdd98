"""Clients of the replication port that do not mean well, on plain blocking sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from typing import Self

from common.certificates import TlsFiles
from common.replication.codec import encode_meta
from common.replication.frame import encode_frame
from common.replication.messages import Message

PATIENCE_SECONDS = 30.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, zero seconds: close() sends RST."""


def frame_of(message: Message) -> bytes:
    """Return a message without payload as it goes over the wire."""
    return b"".join(bytes(each) for each in encode_frame(*encode_meta(message), b""))


def client_hello(context: ssl.SSLContext | None = None) -> bytes:
    """Return the first flight of a TLS client, for who sends it in pieces."""
    if context is None:
        context = rogue_context(None)
    to_server = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), to_server)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return to_server.read()


def rogue_context(files: TlsFiles | None) -> ssl.SSLContext:
    """Return a client's context that trusts everybody, with those files or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if files is not None:
        context.load_cert_chain(files.cert, files.key)
    return context


class RogueLink:
    """One connection; it is closed with the `with`."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        """`address` is the one it comes from."""
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.bind((address, 0))
        self.socket.connect(("127.0.0.1", port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def encrypt(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> ssl.SSLSocket:
        """Shake hands; with TLS 1.3 that succeeds also for whom the server refuses."""
        encrypted = context.wrap_socket(self.socket, session=session)
        self.socket = encrypted
        return encrypted

    def send(self, data: bytes) -> None:
        """Send, whether it is taken or not."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def read_to_end(self) -> bytes:
        """Return all that comes until the server ends the connection in any way."""
        received = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := self.socket.recv(1 << 16):
                received += data
        return received

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.socket.close()
