"""Daemons forked off a process that has imported them: a start costs no imports.

    process = fork("farshore-remote", ["--config", path], log=file, folder=folder)

Two thirds of what a start costs are imports, and tests start daemons by the hundred.
A test process therefore keeps one child that has imported both daemons and has done
nothing else. Asked to, it forks a keeper, and this forks the daemon: a process of its
own with its own `main`, arguments, environment, folder, output and end. The keeper
waits for it and tells how it ended. Should the test process be killed, the one that
forks sees its socket end, and the kernel kills the others, each with its parent.

Where what `exec` does counts (systemd's sockets, namespaces, an installed package),
tests start the commands themselves.
"""

from __future__ import annotations

import array
import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parents[2]
PARENT = "tests.support.forking_parent"


class ForkedDaemon:
    """A daemon's process, as much of `subprocess.Popen` as tests use."""

    def __init__(self, told: int) -> None:
        """`told`, owned from now on: the keeper writes the pid, then the status."""
        self._told = os.fdopen(told, "rb", buffering=0)
        self.returncode: int | None = None
        self.pid = int(self._told.readline())

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"daemon {self.pid}", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        """Wait so long for the end; None if it has not come."""
        if self.returncode is None and select.select([self._told], [], [], timeout)[0]:
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode


class _Parent:
    """The process that has imported the daemons, and forks; it ends with the test's."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", PARENT, str(theirs.fileno())],
                cwd=REPOSITORY,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self._end)

    def fork(self, request: Mapping[str, object], log: int) -> ForkedDaemon:
        told, tell = os.pipe()
        try:
            rights = array.array("i", [log, tell])
            self._requests.sendmsg(
                [json.dumps(request).encode()],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)],
            )
        finally:
            os.close(tell)
        return ForkedDaemon(told)

    def _end(self) -> None:
        self._requests.close()
        self._process.wait()


_parent = functools.cache(_Parent)
"""The one of this test process, made when its first daemon is started."""


def fork(
    name: str, arguments: Sequence[str], *, log: IO[bytes], folder: Path
) -> ForkedDaemon:
    """Start a daemon as its command would be; what it prints goes to `log`."""
    request = {
        "name": name,
        "arguments": list(arguments),
        "folder": str(folder),
        "environment": dict(os.environ),
    }
    return _parent().fork(request, log.fileno())
