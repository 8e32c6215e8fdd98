"""Both sites as real daemons: their configs, processes, logs, and their end.

    with Pair(tmp_path, [VolumeSpec("v", 8 << 20)]) as pair:
        await pair.start()
        client = await pair.primary.nbd("g/v")
        cut = await pair.cut()

Readiness is a condition that is polled, never a time that is waited. Whatever
happens, leaving the `with` ends every process and prints the logs' ends, which
pytest shows where a test failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.errors import UnreachableError
from common.service.control_client import ControlClient
from tests.support.nbd_client import NbdClient

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 30.0
"""How long a condition may take on a busy machine before the test fails."""

POLL_SECONDS = 0.01
STOP_SECONDS = 20.0
LOG_TAIL_BYTES = 6000
REGION_BYTES_DEFAULT = 4 << 20
READ_BYTES = 1 << 20
READS_IN_FLIGHT = 4
STATUS_BYTES = 1 << 30
STATE_HOLE = 1
_DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL", "--"]
"""The kernel kills the daemon should the test process be killed (util-linux)."""


@dataclass(frozen=True)
class VolumeSpec:
    """One volume of the group; `options` are further lines of its table."""

    name: str
    size_bytes: int
    options: dict[str, object] = field(default_factory=dict)
    region_bytes: int = REGION_BYTES_DEFAULT


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


def toml(table: Mapping[str, object]) -> str:
    """Write strings, numbers, booleans and lists of strings as TOML lines."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


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
        self.process: subprocess.Popen[bytes] | None = None

    # -- process -----------------------------------------------------------------------

    def spawn(self) -> None:
        """Start the process; it may not serve yet, or refuse its config."""
        assert self.process is None
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *_DIE_WITH_PARENT,
                    command_path(f"farshore-{self.role}"),
                    "--config",
                    str(self.config_path),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.config_path.parent,
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


class Pair:
    """A primary and a remote of one group "g", and everything they need."""

    def __init__(
        self,
        directory: Path,
        volumes: list[VolumeSpec],
        *,
        group: dict[str, object] | None = None,
        link: dict[str, object] | None = None,
        link_port: int | None = None,
    ) -> None:
        """`group` and `link` are further lines of those tables; the trigger is
        `manual` unless given. `link_port`: where the primary connects, if it is
        not to the remote itself."""
        self.directory = directory
        self.volumes = volumes
        self.group_options = group if group is not None else {"manual": True}
        self.link_options = link or {}
        # AF_UNIX takes 107 bytes; pytest's folders may be longer.
        self._sockets = Path(tempfile.mkdtemp(prefix="farshore-"))
        self.primary = Daemon("primary", directory, self._sockets)
        self.remote = Daemon("remote", directory, self._sockets)
        self.replication_port = free_port()
        self.link_port = link_port or self.replication_port
        self.write_configs()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for daemon in self.daemons:
            daemon.reap()
        shutil.rmtree(self._sockets, ignore_errors=True)
        for daemon in self.daemons:
            print(f"--- end of the log of {daemon.role}\n{daemon.tail()}")
        if error is None:
            for daemon in self.daemons:
                check_log(daemon)

    @property
    def daemons(self) -> tuple[Daemon, Daemon]:
        return self.primary, self.remote

    @property
    def exports(self) -> list[str]:
        return [f"g/{volume.name}" for volume in self.volumes]

    def device(self, volume: str) -> Path:
        return self.directory / f"{volume}.img"

    def secondary(self, volume: str) -> Path:
        return self.directory / f"{volume}.remote.img"

    # -- configs -----------------------------------------------------------------------

    def write_configs(self) -> None:
        self.primary.config_path.write_text(self.primary_toml())
        self.remote.config_path.write_text(self.remote_toml())

    def primary_toml(self) -> str:
        text = self._site(self.primary, "a")
        text += "[[group]]\n" + toml({"name": "g", **self.group_options})
        link = {
            "remotes": [f"127.0.0.1:{self.link_port}"],
            "peer": "b",
            "allow_plaintext_replication": True,
            **self.link_options,
        }
        text += "[group.link]\n" + toml(link)
        for volume in self.volumes:
            table: dict[str, object] = {
                "name": volume.name,
                "device": str(self.device(volume.name)),
                "size": f"{volume.size_bytes}B",
                **volume.options,
            }
            if volume.region_bytes != REGION_BYTES_DEFAULT:
                table["region_size"] = f"{volume.region_bytes}B"
            text += "[[group.volume]]\n" + toml(table)
        return text

    def remote_toml(self) -> str:
        text = self._site(self.remote, "b")
        replication = {
            "listen": [f"tcp:127.0.0.1:{self.replication_port}"],
            "allow_plaintext_replication": True,
        }
        text += "[replication]\n" + toml(replication)
        text += "[[group]]\n" + toml({"name": "g", "peer": "a"})
        for volume in self.volumes:
            device = str(self.secondary(volume.name))
            text += "[[group.volume]]\n" + toml({"name": volume.name, "device": device})
        return text

    @staticmethod
    def _site(daemon: Daemon, name: str) -> str:
        site: dict[str, object] = {
            "name": name,
            "state_dir": str(daemon.state_directory),
            "control_socket": daemon.control_socket,
        }
        listen = {"listen": [daemon.nbd_address]}
        return "[site]\n" + toml(site) + "[nbd]\n" + toml(listen)

    # -- both --------------------------------------------------------------------------

    async def start(self) -> None:
        """Start both, and return once they are connected."""
        await self.remote.start()
        await self.primary.start()
        await self.connected()

    async def connected(self) -> None:
        await until(self.is_connected, "the sites are connected")

    def is_connected(self) -> bool:
        return bool(self.primary.group()["link"]["state"] == "connected")

    async def cut(self, *, label: str | None = None) -> dict[str, Any]:
        """`farshore cut --wait`: return once that cut is safe at the remote."""
        answer: dict[str, Any] = await asyncio.to_thread(
            self.primary.call, "cut", group="g", wait=True, label=label
        )
        assert answer["committed"], answer
        return answer

    async def images(
        self, daemon: Daemon, suffix: str = "", *, sparse: bool = False
    ) -> list[bytearray]:
        """Read every volume's export whole."""
        names = [name + suffix for name in self.exports]
        return [await daemon.read_whole(name, sparse=sparse) for name in names]


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
