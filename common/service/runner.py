"""Run a daemon: the event loop, its signals, its exit code.

The only module that names uvloop: everything else uses the loop's standard
calls, so that tests and a simulator can run it on other loops.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import uvloop

import common
from common.errors import EXIT_INTERNAL, FarshoreError
from common.service.logging import configure_logging, escape
from common.service.notify import notify_stopping
from common.service.watchdog import tell_of_life

SWITCH_INTERVAL_SECONDS = 0.0005
"""How long a thread may keep the interpreter once another wants it.

A worker thread that comes back from a system call has microseconds of Python to
run before a host gets its reply. At the default of 5 ms it can wait that long for
a busy loop, and a busy loop as long for a thread: ten times what the I/O took.
"""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of glibc's `mallopt` (mallopt(3))."""

KEPT_BYTES = 64 << 20
"""Memory that is free but kept. By default buffers of 128 KiB and more go back to the
system at once, and each is cleared again, page by page, when it is next asked for."""

ARENAS = 1
"""Pools that memory is taken from. By default there are eight a core, each thread keeps
to its own, and what one of many threads has freed no other finds: a daemon grows for
hours. Threads of Python seldom ask at the same time."""

Main = Callable[[asyncio.Event], Awaitable[None]]


def make_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop of the kind that the daemons run on."""
    return uvloop.new_event_loop()


def _keep_freed_memory() -> None:
    """Ask the C library to keep what is freed in one place, if it is glibc."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, KEPT_BYTES // 2)
        set_option(_M_TRIM_THRESHOLD, KEPT_BYTES)
        set_option(_M_ARENA_MAX, ARENAS)


def run(name: str, main: Main, reload: asyncio.Event | None = None) -> int:
    """Run `main(stop)` until it returns; return the process's exit code.

    `stop` is set by SIGTERM and SIGINT: `main` then ends in good order. `reload`, if
    given, is set by SIGHUP, which would otherwise end the process. A
    `FarshoreError` that leaves `main` is printed as one sentence on stderr and
    gives its exit code; anything else is a bug, logged with its traceback.
    `main` calls `notify_ready` once it serves.
    """
    configure_logging()
    # systemd's watchdog ends a stuck process by SIGABRT: what held it up is then known.
    faulthandler.enable()
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    _keep_freed_memory()
    try:
        _check_packages(name)
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(_supervise(main, reload))
    except FarshoreError as error:
        print(f"{name}: {escape(str(error))}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except Exception:  # noqa: BLE001 - the process's last line of defence
        structlog.get_logger().exception("daemon_failed", daemon=name)
        return EXIT_INTERNAL
    return 0


async def wait_for_stop(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the stop; a task that ends before it is a bug and ends the daemon."""
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait(
            [stopping, *tasks], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
    finally:
        stopping.cancel()


async def _supervise(main: Main, reload: asyncio.Event | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def request_stop() -> None:
        if not stop.is_set():
            notify_stopping()
            structlog.get_logger().info("stop_requested")
        stop.set()

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: request_stop,
        signal.SIGINT: request_stop,
    }
    if reload is not None:
        handlers[signal.SIGHUP] = reload.set
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    living = asyncio.create_task(tell_of_life())
    try:
        await main(stop)
    finally:
        living.cancel()
        for number in handlers:
            loop.remove_signal_handler(number)


def _check_packages(name: str) -> None:
    """Refuse to run on another distribution's `common`.

    Several on PyPI own that name, and whichever was installed last wins: farshore
    needs an environment of its own.
    """
    package = {"farshore-primary": "primary_site", "farshore-remote": "remote_site"}
    assert common.__file__ is not None
    parent = Path(common.__file__).resolve().parent.parent
    site = package.get(name)
    if site is not None and not (parent / site / "__init__.py").is_file():
        raise FarshoreError(
            f"the package `common` at {parent} is not farshore's ({site} is not "
            "beside it): install farshore in a virtual environment of its own"
        )
