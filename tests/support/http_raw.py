"""HTTP by hand, for tests that send what no client library would."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Told:
    """One answer: its status, headers by lower-case name, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def request(
    path: str, *more: str, method: str = "GET", host: str = "localhost"
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *more, "", ""]
    return "\r\n".join(lines).encode("latin-1")


class RawHttp:
    """One connection to a listener on the loopback."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (
            (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        )
        fields = (line.split(": ", 1) for line in lines if line)
        return int(first.split()[1]), {name.lower(): value for name, value in fields}

    async def answer(self, *, is_head: bool = False) -> Told:
        status, headers = await self.head()
        length = 0 if is_head else int(headers["content-length"])
        return Told(status, headers, await self.reader.readexactly(length))

    async def ended(self) -> bool:
        """Wait until the other side has closed; tell whether it said nothing more."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.transport.abort()


async def ask(port: int, path: str, *more: str, host: str = "localhost") -> Told:
    """Ask for one page over a connection of its own."""
    connection = await RawHttp.connect(port)
    try:
        connection.send(request(path, *more, host=host))
        return await connection.answer()
    finally:
        await connection.close()
