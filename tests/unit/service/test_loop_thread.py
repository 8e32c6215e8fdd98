"""A loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from common.service.loop_thread import LoopThread
from common.service.runner import make_loop


async def test_work_runs_there_and_its_result_comes_back() -> None:
    thread = LoopThread("t", make_loop)

    async def where() -> tuple[str, asyncio.AbstractEventLoop]:
        return threading.current_thread().name, asyncio.get_running_loop()

    assert await thread.run(where()) == ("loop t", thread.loop)
    assert thread.loop is not asyncio.get_running_loop()
    assert await thread.close(5)


async def test_errors_and_cancelling_pass_through() -> None:
    thread = LoopThread("t", make_loop)
    began, cancelled = threading.Event(), threading.Event()

    async def fail() -> None:
        raise ValueError("mine")

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(ValueError, match="mine"):
        await thread.run(fail())
    waiting = asyncio.create_task(thread.run(wait()))
    assert await asyncio.to_thread(began.wait, 5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(cancelled.wait, 5)
    assert await thread.close(5)


async def test_closing_cancels_what_still_runs() -> None:
    thread = LoopThread("t", make_loop)
    began, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    asyncio.run_coroutine_threadsafe(wait(), thread.loop)
    assert await asyncio.to_thread(began.wait, 5)
    assert await thread.close(5)
    assert ended.is_set()


async def test_a_thread_that_hangs_is_left_behind() -> None:
    thread = LoopThread("t", make_loop)
    device = threading.Event()
    thread.loop.call_soon_threadsafe(device.wait)
    assert not await thread.close(0.05)
    device.set()
    assert await asyncio.to_thread(thread._thread.join, 5) is None
    assert not thread._thread.is_alive()
