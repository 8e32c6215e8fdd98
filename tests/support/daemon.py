"""One daemon as a real process: its config file, its log, its sockets, its end.

Readiness is a condition that is polled, never a time that is waited.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UnreachableError
from common.service.control_client import ControlClient
from tests.support.forking import ForkedDaemon, fork
from tests.support.nbd_client import NbdClient
from tests.support.service_manager import ServiceManager

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 30.0
"""How long a condition may take on a busy machine before the test fails."""

POLL_SECONDS = 0.01
STOP_SECONDS = 20.0
LOG_TAIL_BYTES = 6000
READ_BYTES = 1 << 20
READS_IN_FLIGHT = 4
STATUS_BYTES = 1 << 30
STATE_HOLE = 1
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL", "--"]
"""The kernel kills the daemon should the test process be killed (util-linux)."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], bool], what: str) -> None:
    """Return once the condition holds; fail, naming it, if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(POLL_SECONDS)


def command_path(name: str) -> str:
    """Return a console script of the environment that runs the tests."""
    return str(Path(sys.executable).with_name(name))


class Daemon:
    """One daemon: its config file, its process, its log, its sockets."""

    def __init__(self, role: str, directory: Path, sockets: Path) -> None:
        self.role = role
        self.config_path = directory / f"{role}.toml"
        self.log_path = directory / f"{role}.log"
        self.state_directory = directory / f"{role}-state"
        self.control_socket = str(sockets / f"{role}.ctl")
        self.nbd_socket = str(sockets / f"{role}.nbd")
        self.process: subprocess.Popen[bytes] | ForkedDaemon | None = None
        self.manager: ServiceManager | None = None
        """Who starts it, with what it has kept; nobody, if None."""

    # -- process -----------------------------------------------------------------------

    def prefix(self) -> list[str]:
        """Return what comes before the daemon's own command, such as `ip netns`."""
        return []

    def spawn(self) -> None:
        """Start the process; it may not serve yet, or refuse its config."""
        assert self.process is None
        name, arguments = f"farshore-{self.role}", ["--config", str(self.config_path)]
        managed, inherited = self.manager.words() if self.manager else ([], [])
        prefix, folder = [*self.prefix(), *managed], self.config_path.parent
        with self.log_path.open("ab") as log:
            if not prefix:
                self.process = fork(name, arguments, log=log, folder=folder)
                return
            self.process = subprocess.Popen(
                [*DIE_WITH_PARENT, *prefix, command_path(name), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                pass_fds=inherited,
            )

    async def start(self) -> None:
        """Start, and return once both sockets answer."""
        self.spawn()
        await until(self._answers, f"farshore-{self.role} answers")

    def _answers(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"farshore-{self.role} ended with {code}:\n{self.tail()}"
        if not Path(self.nbd_socket).exists():
            return False
        try:
            self.call("status")
        except UnreachableError:
            return False
        return True

    async def ended(self) -> int:
        """Wait for a process that ends by itself; return its exit code."""
        process = self.process
        assert process is not None
        await until(lambda: process.poll() is not None, f"farshore-{self.role} ends")
        self.process = None
        return process.returncode

    async def stop(self) -> None:
        """Stop in good order; anything but exit code 0 is a failure."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = await self.ended()
        assert code == 0, f"farshore-{self.role} stopped with {code}:\n{self.tail()}"

    def kill(self) -> None:
        """SIGKILL, as a crash of the process."""
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"farshore-{self.role} ended with {code}:\n{self.tail()}"
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        self.process = None

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def reap(self) -> None:
        """End the process whatever its state, for the end of a test."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait(STOP_SECONDS)
            self.process = None

    # -- what it says ------------------------------------------------------------------

    def call(
        self,
        command: str,
        *,
        timeout_seconds: float = PATIENCE_SECONDS,
        **arguments: Any,
    ) -> Any:
        with ControlClient(self.control_socket) as client:
            return client.call(command, arguments, timeout_seconds=timeout_seconds)

    def group(self) -> dict[str, Any]:
        """Return the status of its first group."""
        found: dict[str, Any] = self.call("status")["groups"][0]
        return found

    def log_text(self) -> str:
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(errors="replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the log's lines, of one event if named."""
        found = []
        for line in self.log_text().splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and name in {None, event.get("event")}:
                    found.append(event)
        return found

    def tail(self) -> str:
        return self.log_text()[-LOG_TAIL_BYTES:]

    # -- NBD ---------------------------------------------------------------------------

    @property
    def nbd_address(self) -> str:
        return f"unix:{self.nbd_socket}"

    def uri(self, export: str) -> str:
        return f"nbd+unix:///{export}?socket={self.nbd_socket}"

    async def nbd(self, export: str) -> NbdClient:
        return await NbdClient.connect(self.nbd_address, export)

    async def read_whole(self, export: str, *, sparse: bool = False) -> bytearray:
        """Read an export from its beginning to its end over a new connection."""
        client = await self.nbd(export)
        try:
            return await read_all(client, sparse=sparse)
        finally:
            await client.disconnect()


async def read_all(client: NbdClient, *, sparse: bool = False) -> bytearray:
    """Read a whole export; `sparse` leaves out what the server says is a hole."""
    size = client.info.size_bytes
    image = bytearray(size)
    ranges = [(0, size)]
    if sparse:
        ranges = await data_ranges(client)
    offsets = (
        (at, min(READ_BYTES, start + length - at))
        for start, length in ranges
        for at in range(start, start + length, READ_BYTES)
    )

    async def work() -> None:
        for at, length in offsets:
            image[at : at + length] = await client.read(at, length)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(READS_IN_FLIGHT):
            tasks.create_task(work())
    return image


async def data_ranges(client: NbdClient) -> list[tuple[int, int]]:
    """Return (offset, length) of all that base:allocation does not call a hole."""
    found, at = [], 0
    while at < client.info.size_bytes:
        length = min(STATUS_BYTES, client.info.size_bytes - at)
        for covered, flags in await client.block_status(at, length):
            if not flags & STATE_HOLE:
                found.append((at, covered))
            at += covered
    return found


def check_log(daemon: Daemon) -> None:
    """No test may leave a traceback in a log, not even one that did no harm."""
    text = daemon.log_text()
    assert "Traceback" not in text, f"farshore-{daemon.role} logged:\n{text[-4000:]}"
    assert "daemon_failed" not in text, f"farshore-{daemon.role}:\n{text[-4000:]}"


def run_cli(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run `farshore` as an operator does."""
    return subprocess.run(
        [command_path("farshore"), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "COLUMNS": "160"},
        **kwargs,
    )
