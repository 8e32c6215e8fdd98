"""An event loop in a thread of its own, and how other loops ask it for things.

What lives on such a loop is touched by its thread alone; everybody else comes
through `run`. When a device hangs and the loop with it, its askers are the only
ones who wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class LoopThread:
    """A running event loop; made, asked and closed from other threads."""

    def __init__(self, name: str, make_loop: LoopFactory) -> None:
        self.loop = make_loop()
        self._thread = threading.Thread(
            target=self._serve, name=f"loop {name}", daemon=True
        )
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there and await its result; cancelling reaches it."""
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(work, self.loop)
        )

    async def close(self, seconds: float) -> bool:
        """Stop the loop once its turn ends; tell whether it did in time.

        A thread that hangs in a system call is left behind: it does not keep the
        process from ending.
        """
        self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.to_thread(self._thread.join, seconds)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            self._cancel_rest()
        finally:
            self.loop.close()

    def _cancel_rest(self) -> None:
        rest = asyncio.all_tasks(self.loop)
        for task in rest:
            task.cancel()
        gathered = asyncio.gather(*rest, return_exceptions=True)
        self.loop.run_until_complete(gathered)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
