"""kill -9 of a daemon between two of its steps on disk, told by name and number.

strace holds each such call up for a moment as it is made. A daemon killed as soon as
one is done has not made the next: that one is still held up.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.support.sites import PATIENCE_SECONDS, Daemon

CALLS = "fdatasync,fsync,ftruncate,fallocate,unlink"
HELD_UP_MICROSECONDS = 30_000
"""Far longer than this process takes to hear of a call."""

_CALL = re.compile(r"^(?:\[pid +(\d+)\] )?(\w+)\((.*)")
_RESUMED = re.compile(r"^(?:\[pid +(\d+)\] )?<\.\.\. (\w+) resumed>")
_PATH = re.compile(r'[<"]([^>"]*)[>"]')


@dataclass(frozen=True)
class Step:
    """The `number`th `call` on a file whose path ends with `file`."""

    call: str
    file: str
    number: int = 1

    def __str__(self) -> str:
        return f"{self.call} {self.file} {self.number}"


@contextlib.asynccontextmanager
async def killed_after(daemon: Daemon, step: Step) -> AsyncIterator[None]:
    """Kill a daemon once it has done `step` within the block, and wait for that."""
    process = daemon.process
    assert process is not None
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-y", "-e", "signal=none", "-e", f"trace={CALLS}"),
        *("-e", f"inject={CALLS}:delay_enter={HELD_UP_MICROSECONDS}"),
        *("-p", str(process.pid)),
        stderr=asyncio.subprocess.PIPE,
    )
    assert tracer.stderr is not None
    try:
        attached = await tracer.stderr.readline()
        assert b"attached" in attached, attached
        watch = asyncio.create_task(_done(tracer.stderr, step))
        yield
        async with asyncio.timeout(PATIENCE_SECONDS):
            await watch
        daemon.kill()
    finally:
        with contextlib.suppress(ProcessLookupError):
            tracer.terminate()
        await tracer.wait()


async def _done(said: asyncio.StreamReader, step: Step) -> None:
    """Return once strace has told that the step is done."""
    begun: dict[str | None, str] = {}
    count = 0
    while line := (await said.readline()).decode(errors="replace"):
        if found := _RESUMED.match(line):
            thread, call = found.groups()
            arguments = begun.pop(thread, "")
        elif found := _CALL.match(line):
            thread, call, arguments = found.groups()
            if "<unfinished" in line:
                begun[thread] = arguments
                continue
        else:
            continue
        path = _PATH.search(arguments)
        if call == step.call and path is not None and path[1].endswith(step.file):
            count += 1
            if count == step.number:
                return
    raise AssertionError(f"{step}: never done")
