"""A real control server, in a thread of its own, for a command to talk to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Self

from common.service.control import ControlServer

Reply = Callable[[dict[str, Any]], Any]


class Daemon:
    """Answers each command with `replies[command](arguments)`; keeps what it got."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.replies: dict[str, Reply] = {}
        self.received: list[tuple[str, dict[str, Any]]] = []
        self._started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=[self._main()])

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = ControlServer(self.path, self._handle)
        await server.listen()
        self._started.set()
        await self._stop.wait()
        await server.close()

    async def _handle(self, command: str, arguments: dict[str, Any]) -> Any:
        self.received.append((command, arguments))
        return self.replies[command](arguments)
