"""One TCP connection that carries so many bytes, for comparison with what uses it.

    python benchmarks/plain_tcp.py serve ADDRESS PORT
    python benchmarks/plain_tcp.py send ADDRESS PORT BYTES

`send` prints the seconds from its connect to the answer that all of it has arrived.
"""

from __future__ import annotations

import socket
import sys
import time

CHUNK_BYTES = 64 << 10


def serve(address: str, port: int) -> None:
    """Take one connection; answer each of its bytes' ends with one byte."""
    with socket.create_server((address, port)) as listener:
        print("listening", flush=True)
        connection, _ = listener.accept()
    with connection:
        left = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
        while left:
            left -= len(connection.recv(min(left, 1 << 20)))
        connection.sendall(b".")


def send(address: str, port: int, count: int) -> None:
    chunk = bytes(CHUNK_BYTES)
    began = time.monotonic()
    with socket.create_connection((address, port)) as connection:
        connection.sendall(count.to_bytes(8, "big"))
        for _ in range(count // CHUNK_BYTES):
            connection.sendall(chunk)
        connection.sendall(chunk[: count % CHUNK_BYTES])
        assert connection.recv(1) == b"."
    print(time.monotonic() - began)


if __name__ == "__main__":
    what, where, number, *more = sys.argv[1:]
    if what == "serve":
        serve(where, int(number))
    else:
        send(where, int(number), int(more[0]))
