"""Run an NBD server for the length of a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from common.nbd.server import NbdLimits, NbdServer
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_client import NbdClient

PATIENCE_SECONDS = 20.0
"""How long a condition may take on a busy machine before the test fails."""


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; fail if it never does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


@dataclass
class Serving:
    """A server, its exports, and the address of its Unix socket."""

    server: NbdServer
    exports: MemoryExports
    address: str

    @property
    def socket_path(self) -> str:
        return self.address.removeprefix("unix:")

    @property
    def volume(self) -> MemoryVolume:
        """The first export's volume."""
        return next(iter(self.exports.volumes.values()))

    async def client(
        self, export: str = "g/v", *, structured: bool = True
    ) -> NbdClient:
        return await NbdClient.connect(self.address, export, structured=structured)

    def uri(self, export: str = "g/v") -> str:
        return f"nbd+unix:///{export}?socket={self.socket_path}"


@contextlib.asynccontextmanager
async def serving(
    directory: Path,
    volumes: dict[str, MemoryVolume] | None = None,
    limits: NbdLimits | None = None,
) -> AsyncIterator[Serving]:
    """Serve on a socket in `directory`; at the end every opening must be released."""
    exports = MemoryExports(volumes or {"g/v": MemoryVolume(1 << 20)})
    server = NbdServer(exports, limits)
    path = directory / "nbd.sock"
    await server.listen([f"unix:{path}"])
    try:
        yield Serving(server, exports, f"unix:{path}")
    finally:
        await server.close(grace_seconds=1.0)
    # The loop may still be accepting what came before the close.
    await until(lambda: server.connection_count == 0)
    assert exports.all_released()
