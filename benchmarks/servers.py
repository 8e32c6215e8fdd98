"""What the benchmark measures: farshore's two daemons, qemu-nbd, nbdkit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(__file__).resolve().parent.parent / ".venv" / "bin"
START_SECONDS_MAX = 30.0


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Poll a condition; the benchmark ends with an error if it never holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def _listens(path: Path) -> bool:
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
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def qemu_nbd(image: Path, where: Path) -> Iterator[str]:
    path = where / "qemu.sock"
    command = ["qemu-nbd", "-f", "raw", "--cache=writeback", "--discard=unmap"]
    command += ["-e", "8", "-t", "-x", "", "-k", str(path), str(image)]
    with process(command, where / "qemu.log"):
        wait_until(lambda: _listens(path), "qemu-nbd", START_SECONDS_MAX)
        yield f"nbd+unix:///?socket={path}"


@contextmanager
def nbdkit(image: Path, where: Path, name: str = "nbdkit") -> Iterator[str]:
    path = where / f"{name}.sock"
    command = ["nbdkit", "-f", "-U", str(path), "file", str(image)]
    with process(command, where / f"{name}.log"):
        wait_until(lambda: _listens(path), "nbdkit", START_SECONDS_MAX)
        yield f"nbd+unix:///?socket={path}"


class Site:
    """A running daemon of ours and its control socket."""

    def __init__(self, pid: int, control: Path) -> None:
        self.pid = pid
        self._control = control

    def call(self, command: str, **arguments: object) -> object:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._control))
            line = json.dumps({"command": command, "arguments": arguments})
            connection.sendall(line.encode() + b"\n")
            reply = connection.makefile().readline()
        answer = json.loads(reply)
        if "error" in answer:
            raise RuntimeError(answer["error"]["message"])
        return answer["result"]

    def group(self) -> dict[str, object]:
        status = self.call("status")
        assert isinstance(status, dict)
        return status["groups"][0]

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")


class Pair:
    """Both sites on this machine; the remote may come later, or never."""

    def __init__(self, where: Path, size: str, trigger: str) -> None:
        self.where = where
        self.log = where / "primary.log"
        self.image = where / "primary.img"
        self.uri = f"nbd+unix:///bench/data?socket={where}/nbd.sock"
        self.cut_uri = f"nbd+unix:///bench/data@cut?socket={where}/nbd.sock"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (where / "primary.toml").write_text(
            f"""[site]
name = "near"
state_dir = "{where}/near"
control_socket = "{where}/near.sock"
[nbd]
listen = ["unix:{where}/nbd.sock"]
[[group]]
name = "bench"
{trigger}
[group.link]
remotes = ["127.0.0.1:{port}"]
peer = "far"
allow_plaintext_replication = true
[[group.volume]]
name = "data"
device = "{self.image}"
size = "{size}"
"""
        )
        (where / "remote.toml").write_text(
            f"""[site]
name = "far"
state_dir = "{where}/far"
control_socket = "{where}/far.sock"
[replication]
listen = ["tcp:127.0.0.1:{port}"]
allow_plaintext_replication = true
[nbd]
listen = ["unix:{where}/far-nbd.sock"]
[[group]]
name = "bench"
peer = "near"
[[group.volume]]
name = "data"
device = "{where}/remote.img"
"""
        )

    @contextmanager
    def primary(self) -> Iterator[Site]:
        with self._daemon("farshore-primary", "primary", "near") as site:
            yield site

    @contextmanager
    def remote(self) -> Iterator[Site]:
        with self._daemon("farshore-remote", "remote", "far") as site:
            yield site

    @contextmanager
    def _daemon(self, command: str, config: str, name: str) -> Iterator[Site]:
        arguments = [str(BIN / command), "--config", f"{self.where}/{config}.toml"]
        control = self.where / f"{name}.sock"
        with process(arguments, self.where / f"{config}.log") as started:
            wait_until(lambda: _listens(control), command, START_SECONDS_MAX)
            yield Site(started.pid, control)

    def cycles(self) -> list[dict[str, float]]:
        """Return the `cycle_committed` lines of the primary's log."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if '"cycle_committed"' in line]


def idle(pair_site: Site) -> bool:
    group = pair_site.group()
    return (
        group["state"] in {"idle", "draining"} and group["recovery_point"] is not None
    )


def need(*commands: str) -> None:
    """End with a sentence if a peer to compare with is not installed."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        raise SystemExit(
            f"benchmark: {', '.join(missing)} not found: install the Debian packages "
            "qemu-utils, nbdkit, libnbd-bin and fio"
        )


def describe_machine() -> dict[str, object]:
    return {
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "memory_gib": round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        ),
        **{
            name: subprocess.run(
                [name, "--version"], capture_output=True, text=True, check=True
            ).stdout.splitlines()[0]
            for name in ("qemu-nbd", "nbdkit", "fio", "nbdcopy")
        },
    }
