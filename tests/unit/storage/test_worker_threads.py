"""Worker threads: every job's end reaches the loop, once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from common.storage.threads import WorkerThreads


@pytest.fixture
async def threads() -> AsyncIterator[WorkerThreads]:
    threads = WorkerThreads("test", 4)
    yield threads
    threads.close()


async def test_results_and_errors_come_back_on_the_loop(threads: WorkerThreads) -> None:
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)
    assert await threads.run(threading.get_ident) != threading.get_ident()


async def test_each_of_many_jobs_ends_once(threads: WorkerThreads) -> None:
    ended: list[int] = []
    all_ended = asyncio.Event()

    def done(number: int | None, error: BaseException | None) -> None:
        assert error is None
        assert number is not None
        ended.append(number)
        if len(ended) == 2000:
            all_ended.set()

    for number in range(2000):
        threads.submit(lambda n=number: n, done)  # type: ignore[misc]
    await all_ended.wait()
    assert sorted(ended) == list(range(2000))


async def test_a_cancelled_await_does_not_stop_the_thread(
    threads: WorkerThreads,
) -> None:
    go, ran = threading.Event(), threading.Event()

    def job() -> None:
        go.wait(20)
        ran.set()

    waiting = asyncio.ensure_future(threads.run(job))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    assert await asyncio.to_thread(ran.wait, 20)


async def test_one_callers_bug_keeps_no_result_from_the_others() -> None:
    threads = WorkerThreads("test", 1)
    loop = asyncio.get_running_loop()
    met: list[object] = []
    loop.set_exception_handler(lambda _, context: met.append(context["exception"]))
    go = threading.Event()
    ended = loop.create_future()

    def bug(*_: object) -> None:
        raise ValueError("a caller's bug")

    # Both have ended before the loop hears of either.
    threads.submit(lambda: None, bug)
    threads.submit(go.set, lambda *_: ended.set_result(True))
    assert go.wait(20)
    assert await asyncio.wait_for(ended, 20)
    assert [type(error) for error in met] == [ValueError]
    threads.close()


async def test_closing_waits_for_what_runs_and_tells_its_end() -> None:
    threads = WorkerThreads("test", 1)
    ended: list[int] = []
    for number in range(20):
        threads.submit(lambda: None, lambda *_, n=number: ended.append(n))  # type: ignore[misc]
    threads.close()
    assert ended == list(range(20))
    with pytest.raises(AssertionError, match="after close"):
        threads.submit(lambda: None, lambda *_: None)
