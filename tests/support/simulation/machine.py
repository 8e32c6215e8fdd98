"""One simulated machine: its disk, its threads, its clocks, and how they fail.

A job for a thread runs at some later time, and in the order that the seed picks. Some
jobs stop between two operations on the disk and let everything else go on: these have
a stack of their own, which is switched to and from, so that it stays deterministic.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]

from tests.support.simulated_files import SimulatedFiles
from tests.support.simulation.loop import SimulatedLoop, World

P = ParamSpec("P")
T = TypeVar("T")
Done = Callable[[Any, BaseException | None], None]

START_NS = 1_700_000_000_000_000_000
CHANGES_STEP = 1 << 32
SLOW_SECONDS_MAX = 3.0


class DiedError(BaseException):
    """Unwinds a thread whose process is gone."""


class SimulatedClock:
    """The `Clock` port; the wall clock of a machine may be off, and jump."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def now_ns(self) -> int:
        machine = self._machine
        return START_NS + int((machine.world.now + machine.clock_error_seconds) * 1e9)

    def monotonic(self) -> float:
        return self._machine.world.now + 1000.0


class _Job:
    """One job that may stop in the middle; moves only while `step` is called.

    While it moves nothing else does: there is one thread, with many stacks.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._stack = greenlet(self._run)
        self._is_condemned = False
        self.is_over = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.waits_for: TurnLock | None = None

    def _run(self) -> None:
        try:
            if not self._is_condemned:
                self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            self.error = error
        self.is_over = True

    def pause(self) -> None:
        """Within the job: let everything else go on."""
        if self._is_condemned:
            raise DiedError
        self._stack.parent.switch()
        if self._is_condemned:
            raise DiedError

    def step(self) -> None:
        """Let the job move to its next stop, or its end."""
        self._stack.parent = getcurrent()
        outer, _moving.job = _moving.job, self
        try:
            self._stack.switch()
        finally:
            _moving.job = outer

    def condemn(self) -> None:
        """The process is dead: unwind."""
        self._is_condemned = True
        while not self.is_over:
            self.step()


class _Moving:
    job: _Job | None = None


_moving = _Moving()


class TurnLock:
    """Stands for `threading.Lock` where jobs stop in the middle."""

    def __init__(self) -> None:
        self._is_held = False
        self._owner: _Job | None = None

    def __enter__(self) -> bool:
        job = _moving.job
        while self._is_held:
            if job is not None:
                job.waits_for = self
                job.pause()
                job.waits_for = None
                continue
            owner = self._owner
            assert owner is not None, "a job that does not stop waits for itself"
            while owner.waits_for is not None and owner.waits_for._is_held:
                further = owner.waits_for._owner
                assert further is not None
                owner = further
            owner.step()
        self._is_held, self._owner = True, job
        return True

    def __exit__(self, *_: object) -> None:
        self._is_held, self._owner = False, None


class SimulatedThreads:
    """The `Threads` port: `count` workers of one process."""

    def __init__(
        self,
        machine: Machine,
        name: str,
        count: int,
        loop: SimulatedLoop | None = None,
    ) -> None:
        """`loop`: who is told that a job has ended; by default the main one."""
        self._machine = machine
        self._loop = loop or machine.loop
        self._world = machine.world
        self._name = name
        self._free = count
        self._queue: deque[tuple[Callable[[], Any], Done]] = deque()
        self._starting: dict[int, tuple[Callable[[], Any], Done]] = {}
        """Taken by a worker, which has not come to them yet."""
        self._under_way: dict[_Job, Done] = {}

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        if self._loop.is_dead:
            return
        self._queue.append((job, done))
        self._next()

    async def run(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.submit(lambda: function(*args, **kwargs), done)
        return await future

    def close(self) -> None:
        while not self._loop.is_dead and (
            self._under_way or self._starting or self._queue
        ):
            for job in list(self._under_way):
                while not job.is_over:
                    job.step()
                self._ended(job)
            for number in list(self._starting):
                self._begin(*self._starting.pop(number), inline=True)
            if self._queue:
                self._begin(*self._queue.popleft(), inline=True)

    def is_busy_with(self, name: str) -> bool:
        """Tell whether a job that calls a function of this name has not returned."""
        jobs = [job for job, _ in self._queue]
        jobs += [job for job, _ in self._starting.values()]
        jobs += [job._work for job in self._under_way]
        return any(getattr(getattr(j, "func", j), "__name__", "") == name for j in jobs)

    def _next(self) -> None:
        if not self._queue or not self._free:
            return
        self._free -= 1
        job, done = self._queue.popleft()
        number = next(self._world.numbers)
        self._starting[number] = job, done
        seconds = self._machine.job_seconds()
        if getattr(job, "__name__", "") == "datasync":
            seconds += self._machine.sync_seconds * self._world.rng.random()
        self._world.after(seconds, self._start, number)

    def _start(self, number: int) -> None:
        if self._loop.is_dead or number not in self._starting:
            return
        if self._loop.is_frozen:
            self._world.after(0.05, self._start, number)
            return
        self._free += 1
        self._begin(*self._starting.pop(number), inline=False)

    def _begin(self, work: Callable[[], Any], done: Done, *, inline: bool) -> None:
        machine = self._machine
        if not inline and machine.stops:
            stopping = self._world.rng.random() < machine.stops
            if stopping:
                self._free -= 1
                job = _Job(work)
                machine.jobs.append(job)
                self._under_way[job] = done
                self._move(job)
                return
        result: Any = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failure = error
        self._tell(done, result, failure, inline=inline)
        if not inline:
            self._next()

    def _move(self, job: _Job) -> None:
        if self._loop.is_dead or job not in self._under_way:
            return
        if self._loop.is_frozen:
            self._world.after(0.05, self._move, job)
            return
        if not job.is_over:
            job.step()
        if self._loop.is_dead:
            return
        if job.is_over:
            self._ended(job)
        else:
            self._world.after(self._machine.job_seconds(), self._move, job)

    def _ended(self, job: _Job) -> None:
        done = self._under_way.pop(job)
        self._machine.jobs.remove(job)
        self._free += 1
        self._tell(done, job.result, job.error, inline=False)
        self._next()

    def _tell(
        self, done: Done, result: Any, error: BaseException | None, *, inline: bool
    ) -> None:
        if inline:
            done(result, error)
        elif self._world.rng.random() < 0.5:
            self._loop.call_soon(done, result, error)
        else:
            self._world.after(
                self._machine.job_seconds(), self._deliver, done, result, error
            )

    def _deliver(self, *told: Any) -> None:
        done, result, error = told
        self._loop.call_soon(done, result, error)


class Machine:
    """What outlives a process: the disk, with its faults, and the wall clock."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.files = SimulatedFiles()
        self.clock = SimulatedClock(self)
        self.clock_error_seconds = 0.0
        self.is_up = True
        self.loop: SimulatedLoop
        self.slow_until = 0.0
        self.sync_seconds = 0.0
        """How much longer a fdatasync may take than anything else."""
        self.stops = 0.0
        """Share of jobs that stop in the middle."""
        self.jobs: list[_Job] = []
        self.full: set[str] = set()
        """Path prefixes on which nothing more can be allocated."""
        self.errors: list[tuple[str, str, int]] = []
        """(operation, path prefix, errno), each to be met once."""
        self.errors_met: list[tuple[str, str]] = []
        """(operation, path) of what failed in this life of the process."""
        self.failed_flush = ""
        """The first flush that failed in this life, if it was one that counts."""
        self.injected: Counter[str] = Counter()
        """What was made to fail, over the whole run."""
        self.on_error: Callable[[], None] | None = None
        self.on_operation: Callable[[str, str], None] = lambda *_: None
        """Told of each operation as it takes effect; of a flush, just before."""
        self.hung_until = 0.0
        """No call to the disk returns before."""
        self.fuse = 0
        """The process dies at so many operations on the disk from now; 0: never."""
        self.blow: Callable[[], None] = lambda: None
        self.disturbed_until = 0.0
        """Calls that were slowed down or hung have returned by then."""
        self._changes = 0
        self._quiet = False
        self._hook(self.files)

    def slow_down(self, seconds: float) -> None:
        """Have calls to the disk take long for a while."""
        self.slow_until = self.world.now + seconds
        self._disturbed(self.slow_until)

    def hang(self, seconds: float) -> None:
        """Have no call to the disk return for a while."""
        self.hung_until = self.world.now + seconds
        self._disturbed(self.hung_until)

    def _disturbed(self, until: float) -> None:
        self.disturbed_until = max(self.disturbed_until, until + SLOW_SECONDS_MAX)

    def job_seconds(self) -> float:
        """Return how long something in a thread takes to get on."""
        rng = self.world.rng
        if self.world.now < self.hung_until:
            return self.hung_until - self.world.now + 0.1 * rng.random()
        if self.world.now < self.slow_until:
            slowest = SLOW_SECONDS_MAX if rng.random() < 0.1 else 0.3
            return rng.random() * slowest
        return rng.random() * (0.03 if rng.random() < 0.05 else 0.001)

    # -- the disk ----------------------------------------------------------------------

    def _hook(self, files: SimulatedFiles) -> None:
        files.hook = self._after
        files.inject = self._before

    def _before(self, operation: str, path: str) -> int | None:
        job = _moving.job
        if job is not None and self.world.rng.random() < 0.3:
            job.pause()
        if self._quiet:
            return None
        for index, (failing, prefix, number) in enumerate(self.errors):
            if operation == failing and path.startswith(prefix):
                del self.errors[index]
                self._note_failure(operation, path, number)
                if self.on_error is not None:
                    on_error, self.on_error = self.on_error, None
                    self.world.after(self.world.rng.random() * 0.2, on_error)
                return number
        grows = operation in {"write", "create"}
        if grows and any(path.startswith(prefix) for prefix in self.full):
            self._note_failure(operation, path, errno.ENOSPC)
            return errno.ENOSPC
        return None

    def _note_failure(self, operation: str, path: str, number: int) -> None:
        self.world.note(f"{self.name}: {operation} {path} fails: {number}")
        self.errors_met.append((operation, path))
        name = errno.errorcode[number]
        self.injected[f"{operation} /{path.split('/')[1]} {name}"] += 1
        is_flush = operation in {"datasync", "sync_directory"}
        # An index can be made again, a first record tried again.
        if is_flush and not path.endswith((".index", ".new")):
            self.failed_flush = self.failed_flush or path

    def has_failed_at(self, *prefixes: str) -> bool:
        """Tell whether anything failed under these paths in this life."""
        return any(path.startswith(prefixes) for _, path in self.errors_met)

    def _after(self, operation: str, path: str) -> None:
        if self._quiet:
            return
        self.on_operation(operation, path)
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                self.world.note(f"{self.name} dies at {operation} {path}")
                self.blow()

    def looking(self, look: Callable[[], T]) -> T:
        """Look at the disk as the oracle does: without faults, unseen."""
        self._quiet = True
        moving, _moving.job = _moving.job, None
        try:
            return look()
        finally:
            self._quiet = False
            _moving.job = moving

    def after_kill(self) -> None:
        """Go on with what a killed process left: the page cache too."""
        self._go_on(self.files.after_kill())

    def after_power_loss(self) -> None:
        """Go on with what the disk has: what was not flushed may be gone or torn."""
        fate = self.world.rng.choice(("lost", "kept", "mixed"))
        self._go_on(self.files.crash_image(self.world.rng, fate))

    def restore(self, files: SimulatedFiles) -> None:
        """Go on with another disk: an operator put an older copy back."""
        self._go_on(files.after_kill())

    def restore_directory(self, path: str, files: SimulatedFiles) -> None:
        """Put an older copy of one directory, and those in it, back."""
        mine, theirs = self.files.after_kill(), files.after_kill()
        for name in list(mine.directories):
            if name == path or name.startswith(path + "/"):
                del mine.directories[name]
        for name, directory in theirs.directories.items():
            if name == path or name.startswith(path + "/"):
                mine.directories[name] = directory
        self._go_on(mine)

    def copied(self) -> SimulatedFiles:
        """Return a copy of the disk, for `restore`."""
        return self.files.after_kill()

    def _go_on(self, files: SimulatedFiles) -> None:
        self.files.hook = self.files.inject = None
        self.files = files
        self.fuse = 0
        self.errors_met, self.failed_flush = [], ""
        self._hook(files)
        # A file's time of change never comes again, whatever a copy counts from.
        self._changes += CHANGES_STEP
        for directory in files.directories.values():
            for inode in directory.names.values():
                inode.changes += self._changes
        self.end_jobs()

    def end_jobs(self) -> None:
        """Unwind every job that has stopped in the middle: its process is gone."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            if job is not _moving.job:
                job.condemn()
