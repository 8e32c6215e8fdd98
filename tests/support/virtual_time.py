"""One loop whose time passes only where a test says so, and threads that take none.

For figures that must not depend on the machine: what is measured as waiting is what
the test had something wait for, to the last digit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time jumps to the next timer once nothing else is to be done."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        super().__init__()

    def time(self) -> float:
        return self.seconds

    def spend(self, seconds: float) -> None:
        """Let time pass under whoever runs now."""
        self.seconds += seconds

    def _run_once(self) -> None:
        timers = self._scheduled  # type: ignore[attr-defined]
        times = [timer.when() for timer in timers if not timer.cancelled()]
        if not self._ready and times:  # type: ignore[attr-defined]
            self.seconds = max(self.seconds, min(times))
        super()._run_once()  # type: ignore[misc]


class InlineThreads:
    """The port `Threads`: every call is through before the one who asked goes on."""

    def __init__(self, _: str = "") -> None: ...

    def submit(
        self,
        job: Callable[[], T],
        done: Callable[[T | None, BaseException | None], None],
    ) -> None:
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - handed on
            asyncio.get_running_loop().call_soon(done, None, error)
        else:
            asyncio.get_running_loop().call_soon(done, result, None)

    async def run(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return function(*args, **kwargs)

    def close(self) -> None: ...


def in_virtual_time(test: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    """Run a test on a loop of its own."""
    loops: list[VirtualLoop] = []

    def make() -> VirtualLoop:
        loops.append(VirtualLoop())
        return loops[0]

    async def main() -> None:
        await test(loops[0])

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(main())
