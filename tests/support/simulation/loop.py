"""Virtual time for several processes at once, in an order that one seed decides.

Each simulated process has an event loop of its own, so that killing it is to drop
that loop: nothing of it runs again, whatever its tasks still wait for. Within a loop
callbacks run in the order they were given, as asyncio promises; between loops any
order may happen, and the seed picks it. Time passes only when nothing can run.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import heapq
import itertools
import random
import warnings
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

STEPS_MAX = 200_000
"""Callbacks of one run: a loop that turns for ever is a finding, not a hang."""

LATENESS_SECONDS = 0.0005
"""A timer fires up to so much late: no two ever surely fire in one order."""


class StuckError(AssertionError):
    """Nothing can run any more, or something runs for ever."""


class SimulatedTask(asyncio.Task[Any]):
    """A task whose place in a set depends on its number, not on its address."""

    def __init__(self, number: int, coro: Any, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedLoop(asyncio.AbstractEventLoop):
    """The event loop of one simulated process.

    `fuse`: the process dies before so many more callbacks have run; 0 for never.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.site = name.partition("-")[0]
        self.ready: deque[asyncio.Handle] = deque()
        self.is_dead = False
        self.is_frozen = False
        self.process: Any = None
        """The site whose daemon it is, where what runs here asks for it."""
        self.executor: Any = None
        """Threads of `asyncio.to_thread`."""
        self.fuse = 0
        self.blow: Callable[[], None] = self.kill
        self._tasks: list[SimulatedTask] = []
        world.loops.append(self)

    def kill(self) -> None:
        """End the process: nothing of it runs any more."""
        self.is_dead = True
        self.ready.clear()
        if self in self.world.loops:
            self.world.loops.remove(self)

    # -- what asyncio asks of a loop -------------------------------------------------

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.is_dead:
            self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        return self.call_at(self.world.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.is_dead:
            late = self.world.rng.random() * LATENESS_SECONDS
            self.world.at(when + late, self._due, handle)
        return handle

    def _due(self, handle: asyncio.Handle) -> None:
        if not (self.is_dead or handle.cancelled()):
            self.ready.append(handle)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are dropped when they are due."""

    def time(self) -> float:
        return self.world.now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        number = next(self.world.numbers)
        task = SimulatedTask(number, coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """What `asyncio.to_thread` is made of."""
        del executor
        future = self.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.executor.submit(functools.partial(func, *args), done)
        return future

    def others(self) -> list[SimulatedTask]:
        """Return the tasks that have not ended, but for the one that asks."""
        current = asyncio.current_task(self)
        return [t for t in self._tasks if t is not current and not t.done()]

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.is_dead:
            self.world.problem(
                f"{self.name}: {context.get('message')}: {context.get('exception')!r}",
                context.get("exception"),
            )

    def waiting(self) -> str:
        """Say what each task waits for: the first thing to know of a stuck run."""
        lines = []
        for task in self._tasks:
            if task.done():
                continue
            coroutine: Any = task.get_coro()
            places = []
            while coroutine is not None and getattr(coroutine, "cr_frame", None):
                frame = coroutine.cr_frame
                places.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
                coroutine = coroutine.cr_await
            lines.append(f"{self.name}: " + " > ".join(places))
        return "\n".join(lines)

    # -- the end ---------------------------------------------------------------------

    def bury(self) -> None:
        """Unwind what the process left waiting; nothing of it reaches the world."""
        events._set_running_loop(self)
        try:
            for task in self._tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                if not task.done():
                    _unwind(task.get_coro())
        finally:
            events._set_running_loop(None)
        self._tasks.clear()


def _unwind(coroutine: Any) -> None:
    for _ in range(100):  # a `finally` that awaits ignores the first closing
        try:
            coroutine.close()
        except RuntimeError as error:
            if "ignored GeneratorExit" not in str(error):
                return
        except BaseException:  # noqa: BLE001 - the process is dead
            return
        else:
            return


class World:
    """Time, chance and everything that happens in one run.

    `rng` decides the order of events, `chance` what the product draws at random,
    so that a change in the one does not change all of the other.
    """

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.chance = random.Random(~seed)
        self.now = 0.0
        self.loops: list[SimulatedLoop] = []
        self.numbers = itertools.count()
        self.steps = 0
        self.problems: list[tuple[str, BaseException | None]] = []
        self.trace: list[str] = []
        self.awaited: tuple[str, float, Callable[[], None]] | None = None
        """(how an event of the trace begins, seconds from it, what happens then)."""
        self._keep_trace = keep_trace
        self._digest = hashlib.blake2b(digest_size=16)
        self._timers: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._buried: list[SimulatedLoop] = []
        self._entered: SimulatedLoop | None = None
        self.is_over = False
        """What happens from here on is the unwinding of what was cut short."""

    # -- telling -----------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Put an event into the trace, which two runs of a seed have in common."""
        line = f"{self.now:.6f} {text}"
        if self.awaited is not None and text.startswith(self.awaited[0]):
            _, delay, action = self.awaited
            self.awaited = None
            self.after(delay, action)
        self._digest.update(line.encode())
        self.trace.append(line)
        if not self._keep_trace and len(self.trace) > 64:
            del self.trace[:32]

    @property
    def digest(self) -> str:
        found = self._digest.copy()
        found.update(f"{self.steps} {self.now!r}".encode())
        return found.hexdigest()

    def problem(self, text: str, cause: BaseException | None = None) -> None:
        self.note(f"PROBLEM {text}")
        self.problems.append((f"at {self.now:.6f} s: {text}", cause))

    # -- running -----------------------------------------------------------------------

    def at(self, when: float, action: Callable[..., Any], *args: Any) -> None:
        """Have `action(*args)` happen at that time, outside of any process."""
        heapq.heappush(self._timers, (when, next(self.numbers), action, args))

    def after(self, delay: float, action: Callable[..., Any], *args: Any) -> None:
        self.at(self.now + delay, action, *args)

    def new_loop(self, name: str) -> SimulatedLoop:
        # What asyncio calls of a loop is there; sockets and signals are not.
        loop = SimulatedLoop(self, name)  # type: ignore[abstract]
        self._buried.append(loop)
        return loop

    def run(self, is_over: Callable[[], bool]) -> None:
        """Let everything happen until `is_over`, or until there is a problem."""
        random_number = self.rng.random
        timers = self._timers
        try:
            while not self.problems and not is_over():
                self.steps += 1
                if self.steps > STEPS_MAX:
                    raise StuckError("something runs for ever")
                able = [x for x in self.loops if x.ready and not x.is_frozen]
                if able:
                    index = int(random_number() * len(able)) if len(able) > 1 else 0
                    self._turn(able[index])
                elif timers:
                    self._enter(None)
                    when, _, action, args = heapq.heappop(timers)
                    if when > self.now:
                        self.now = when
                    action(*args)
                else:
                    raise StuckError("nothing will ever happen again")
        finally:
            self._enter(None)

    def _turn(self, loop: SimulatedLoop) -> None:
        if loop.fuse:
            loop.fuse -= 1
            if not loop.fuse:
                self._enter(None)
                loop.blow()
                return
        handle = loop.ready.popleft()
        if not handle.cancelled():
            if loop is not self._entered:
                self._enter(loop)
            handle._run()

    def _enter(self, loop: SimulatedLoop | None) -> None:
        """Have asyncio take that loop, or none, for the one that runs."""
        if loop is not self._entered:
            self._entered = loop
            events._set_running_loop(loop)

    def call(self, loop: SimulatedLoop, work: Coroutine[Any, Any, Any]) -> Any:
        """Start a task in a process, from outside of it."""
        entered = self._entered
        self._enter(loop)
        try:
            return loop.create_task(work)
        finally:
            self._enter(entered)

    def close(self) -> None:
        for loop in self._buried:
            loop.kill()
        with warnings.catch_warnings():
            # A killed process leaves tasks that it had not even begun.
            warnings.simplefilter("ignore", RuntimeWarning)
            for loop in self._buried:
                loop.bury()
