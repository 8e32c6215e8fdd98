"""Both daemons on this machine: their configs, their processes, their end."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from common.errors import UnreachableError
from common.service.control_client import ControlClient

START_SECONDS_MAX: Final = 20.0
STOP_SECONDS_MAX: Final = 10.0
POLL_SECONDS: Final = 0.02
LOG_LINES_SHOWN: Final = 20
SOCKET_PATH_BYTES_MAX: Final = 107
"""What Linux's sockaddr_un holds."""

_PR_SET_PDEATHSIG: Final = 1


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Have the kernel kill the daemon should this process be killed itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Site:
    """One daemon with its config file, its log and its control socket."""

    def __init__(self, command: str, config: Path, control_socket: str) -> None:
        self.command = command
        self.log_path = config.with_suffix(".log")
        self.control_socket = control_socket
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name(command), "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads yet
            )

    def wait_ready(self) -> None:
        """Return once the daemon answers; raise DemoError if it never does."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            code = self.process.poll()
            if code is not None:
                raise DemoError(f"{self.command} ended with exit code {code}")
            with contextlib.suppress(UnreachableError):
                self.status()
                return
            time.sleep(POLL_SECONDS)
        raise DemoError(f"{self.command} did not answer in {START_SECONDS_MAX:g} s")

    def status(self) -> dict[str, Any]:
        with ControlClient(self.control_socket) as client:
            found: dict[str, Any] = client.call("status")
            return found

    def group(self) -> dict[str, Any]:
        """Return the status of its only group."""
        found: dict[str, Any] = self.status()["groups"][0]
        return found

    def kill(self) -> None:
        """SIGKILL: no goodbye, nothing flushed."""
        self.process.kill()
        self.process.wait(STOP_SECONDS_MAX)

    def stop(self) -> None:
        """End the daemon: in good order if it will, by force if it will not."""
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what its log tells of one event, oldest first."""
        found = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == name:
                    found.append(event)
        return found

    def log_tail(self) -> list[str]:
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text(errors="replace").splitlines()
        return lines[-LOG_LINES_SHOWN:]
