"""A TCP proxy between the sites: a link that can stall, break and come back.

It counts what passes, so that what travelled is known from outside the daemons.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

CHUNK_BYTES = 32 << 10
SLOW_CHUNK_BYTES = 8 << 10
LITTLE_BYTES = 32 << 10


class TcpProxy:
    """Forwards connections to a port of this machine; owned by the event loop."""

    def __init__(self, target_port: int, *, takes_little: bool = False) -> None:
        """`takes_little`: what a throttled link can't carry yet, the sender keeps."""
        self._takes_little = takes_little
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        """Of each connection, oldest first: towards the primary, towards the remote."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.forwarded_bytes = 0
        """From the primary to the remote: all there is on the wire."""
        self._stall_at: int | None = None
        self._bytes_per_second: float | None = None
        self.stalled = asyncio.Event()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    def stall(self) -> None:
        """Forward nothing more to the remote; what it says still arrives."""
        self._flowing.clear()
        self.stalled.set()

    def throttle(self, bytes_per_second: float | None) -> None:
        """Carry no more than this to the remote; None: as fast as it goes."""
        self._bytes_per_second = bytes_per_second

    def stall_after(self, count_bytes: int) -> None:
        """Stall in the middle of what comes, once so much of it has passed."""
        self.stalled.clear()
        self._stall_at = self.forwarded_bytes + count_bytes

    def flow(self) -> None:
        """Forward again, also new connections."""
        self._stall_at = None
        self._refusing = False
        self._flowing.set()

    def cut(self) -> None:
        """Reset every connection, and those to come, until `flow`."""
        self._refusing = True
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        for writer in self._writers:
            writer.transport.abort()

    @property
    def connection_count(self) -> int:
        return len(self._pairs)

    def reset_one(self, index: int) -> None:
        """Reset one connection, the oldest being 0; new ones are welcome."""
        for writer in self._pairs[index]:
            writer.transport.abort()

    async def close(self) -> None:
        self._flowing.set()
        self.reset()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            return
        if self._takes_little:
            accepted = writer.get_extra_info("socket")
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE_BYTES)
        self._writers |= {writer, back}
        self._pairs.append((writer, back))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, back, counted=True))
                tasks.create_task(self._pump(there, writer, counted=False))
        finally:
            self._writers -= {writer, back}
            self._pairs.remove((writer, back))
            back.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        counted: bool,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(self._chunk_bytes()):
                if counted:
                    if self._bytes_per_second is not None:
                        await asyncio.sleep(len(data) / self._bytes_per_second)
                    self.forwarded_bytes += len(data)
                    if self._stall_at is not None:
                        self._stall_if_due(self._stall_at)
                    await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def _chunk_bytes(self) -> int:
        return CHUNK_BYTES if self._bytes_per_second is None else SLOW_CHUNK_BYTES

    def _stall_if_due(self, at: int) -> None:
        if self.forwarded_bytes >= at:
            self._stall_at = None
            self.stall()
