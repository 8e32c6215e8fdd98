"""One run of a hook: a program with a time limit, its output bounded. Blocking."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.service.hook_status import HookOutcome
from common.service.process_groups import end_group

POLL_SECONDS = 0.02
"""How soon an end is seen of a program whose children keep its output open."""

TERMINATE_SECONDS = 1.0
"""What a hook gets to clean up, past its limit."""

OUTPUT_BYTES_MAX = 4096
"""Kept of what it prints, from its beginning; the rest is read and dropped."""

INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ")
"""Of our own environment: nothing of systemd's sockets and credentials among them."""

TOKEN = "FARSHORE_HOOK"  # noqa: S105 - no secret: it marks what a hook has started


@dataclass(frozen=True, slots=True)
class HookEnd:
    """How it ended; `is_gone` is False where even SIGKILL has not ended it yet."""

    outcome: HookOutcome
    exit_code: int | None
    seconds: float
    output: str
    is_gone: bool = True

    @property
    def reason(self) -> str:
        """Say why it did not succeed, for people; empty if it did."""
        match self.outcome:
            case HookOutcome.DONE:
                return ""
            case HookOutcome.FAILED if (self.exit_code or 0) < 0:
                why = f"signal {-(self.exit_code or 0)} ended it"
            case HookOutcome.FAILED:
                why = f"it ended with exit code {self.exit_code}"
            case HookOutcome.TIMED_OUT:
                why = f"it was not done after {self.seconds:.1f} s"
            case HookOutcome.STOPPED:
                why = "the daemon stops"
            case _:
                why = "it could not be started"
        first_line = self.output.strip().partition("\n")[0]
        return f"{why}: {first_line}" if first_line else why


class HookProcess:
    """Run it once, in a thread; `stop` it from another."""

    def __init__(
        self, words: tuple[str, ...], told: dict[str, str], limit_seconds: float
    ) -> None:
        self._words = words
        self._told = told
        self._limit = limit_seconds
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """Have it ended soon; `run` then returns."""
        self._stopping.set()

    def is_gone(self) -> bool:
        """Tell whether the program has ended, after `run` has returned."""
        return self._process is None or self._process.poll() is not None

    def run(self) -> HookEnd:
        """Run the program to its end, or end it: it and what it has started.

        What a program that succeeded has left running is let be: it may hold what
        the other hook will let go of.
        """
        began = time.monotonic()
        own = {name: os.environ[name] for name in INHERITED if name in os.environ}
        try:
            process = subprocess.Popen(  # noqa: S603 - words of the config, no shell
                self._words,
                env=own | self._told,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            text = f"{self._words[0]}: {error.strerror or error}"
            return HookEnd(HookOutcome.NOT_STARTED, None, 0.0, text)
        self._process = process
        assert process.stdout is not None
        output = _Output(process.stdout.fileno())
        outcome = self._until_end(process, output, began + self._limit)
        code: int | None
        if outcome is None:
            code = process.wait()
            outcome = HookOutcome.FAILED if code else HookOutcome.DONE
        else:
            code = end_group(process, TERMINATE_SECONDS)
        output.read(0.0)
        process.stdout.close()
        seconds = time.monotonic() - began
        return HookEnd(outcome, code, seconds, output.text(), self.is_gone())

    def _until_end(
        self, process: subprocess.Popen[bytes], output: _Output, deadline: float
    ) -> HookOutcome | None:
        """Wait for the end; None, or why it must be ended from outside."""
        while process.poll() is None:
            if self._stopping.is_set():
                return HookOutcome.STOPPED
            left = deadline - time.monotonic()
            if left <= 0:
                return HookOutcome.TIMED_OUT
            output.read(min(left, POLL_SECONDS))
        return None


class _Output:
    """What comes out of a pipe, so much of it as is kept."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._kept = bytearray()
        self._is_open = True

    def read(self, seconds: float) -> None:
        """Take what is there, or comes within that time."""
        if not self._is_open:  # its end comes with its output's, mostly
            time.sleep(min(seconds, POLL_SECONDS / 4))
            return
        if not self._poll.poll(seconds * 1000):
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._descriptor, 1 << 16)
            self._is_open = bool(data)
            self._kept += data[: max(0, OUTPUT_BYTES_MAX - len(self._kept))]

    def text(self) -> str:
        return self._kept.decode(errors="replace")


def kill_left_over(token: str) -> int:
    """Kill what a hook of an earlier process has left running; return how many.

    Found by `TOKEN` in their environment: those of this user, that is.
    """
    mark = f"{TOKEN}={token}".encode()
    killed = 0
    for pid in _marked(mark):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


def _marked(mark: bytes) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
