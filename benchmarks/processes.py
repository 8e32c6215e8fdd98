"""Processes that end with the benchmark, and waiting until they answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS_MAX = 30.0
END_SECONDS_MAX = 20.0


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Poll a condition; the benchmark ends with an error if it never holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def daemonized(command: list[str], pid_file: Path, log: Path) -> Iterator[None]:
    """Run what insists on leaving its parent; it is found by its own pid file."""
    with log.open("ab") as output:
        subprocess.run(command, stdout=output, stderr=output, check=True)
    wait_until(
        lambda: pid_file.exists() and pid_file.read_text().strip().isdigit(),
        f"{command[0]}: pid file",
        START_SECONDS_MAX,
    )
    pid = int(pid_file.read_text())
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not _runs(pid), f"{command[0]}: end", END_SECONDS_MAX)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens_tcp(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
