"""Tasks: kept while they run, ended whole, and cancelled when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """Holds running tasks; they handle their own errors."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; a cancelled caller still waits until it has ended.

    For what a thread does to a file in steps: its caller's locks and flags must
    not be let go of while the thread writes on.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # ends with the thread, however often we are cancelled
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # looked at: nobody else will
        raise


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one error that stands for all of a task group's.

    A child that fails while it is being cancelled hides the cancelling: whoever
    goes on after this error looks for another sign that it is to end.
    """
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def retrieve(task: asyncio.Task[Any]) -> None:
    """Look at the outcome, so that a failed destage nobody awaits is not lost twice."""
    if not task.cancelled():
        task.exception()
