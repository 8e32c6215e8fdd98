"""farshore's two daemons on one machine, as the benchmark runs them."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import (
    START_SECONDS_MAX,
    free_port,
    listens,
    process,
    wait_until,
)
from common.cli.site_certificates import CA_CERTIFICATE

PLAINTEXT = "allow_plaintext_replication = true\n"
BIN = Path(__file__).resolve().parent.parent / ".venv" / "bin"


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
        group: dict[str, object] = status["groups"][0]
        return group

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
        host_port, port = free_port(), free_port()
        self.replication_port = port
        self.tcp_uri = f"nbd://127.0.0.1:{host_port}/bench/data"
        (where / "primary.toml").write_text(
            f"""[site]
name = "near"
state_dir = "{where}/near"
control_socket = "{where}/near.sock"
[nbd]
listen = ["unix:{where}/nbd.sock", "tcp:127.0.0.1:{host_port}"]
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

    def link_through(self, port: int, keys: str) -> None:
        """Have the primary connect to another port, with further keys of its link."""
        config = self.where / "primary.toml"
        link = f'remotes = ["127.0.0.1:{self.replication_port}"]\n'
        text = config.read_text()
        assert link in text
        config.write_text(
            text.replace(link, f'remotes = ["127.0.0.1:{port}"]\n{keys}\n')
        )

    def encrypt(self) -> None:
        """Have both sites speak TLS, with what `farshore init` makes for it."""
        made = [str(BIN / "farshore"), "init", str(self.where / "made")]
        subprocess.run(
            [*made, "--primary", "near", "--remote", "far"],
            check=True,
            capture_output=True,
        )
        for config, site in (("primary", "near"), ("remote", "far")):
            path = self.where / f"{config}.toml"
            files = {
                "ca": f"{self.where}/made/{CA_CERTIFICATE}",
                "cert": f"{self.where}/made/{site}.pem",
                "key": f"{self.where}/made/{site}.key",
            }
            keys = ", ".join(
                f"{key} = {json.dumps(file)}" for key, file in files.items()
            )
            text = path.read_text()
            assert PLAINTEXT in text
            path.write_text(text.replace(PLAINTEXT, f"tls = {{ {keys} }}\n"))

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
        control, log = self.where / f"{name}.sock", self.where / f"{config}.log"
        with process(arguments, log) as started:
            wait_until(
                lambda: listens(control) or started.poll() is not None,
                *(f"{command}, whose log is {log}", START_SECONDS_MAX),
            )
            if started.poll() is not None:
                raise RuntimeError(f"{command} has ended:\n{log.read_text()}")
            yield Site(started.pid, control)

    def flashcopy_allocated_bytes(self) -> int:
        """Return what the FlashCopy targets occupy (a reused one keeps its blocks)."""
        files = [
            f for f in (self.where / "near" / "flashcopy").rglob("*") if f.is_file()
        ]
        return sum(f.stat().st_blocks * 512 for f in files)

    def cycles(self) -> list[dict[str, float]]:
        """Return the `cycle_committed` lines of the primary's log."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if '"cycle_committed"' in line]


def idle(pair_site: Site) -> bool:
    group = pair_site.group()
    return (
        group["state"] in {"idle", "draining"} and group["recovery_point"] is not None
    )


def settled(site: Site) -> bool:
    """Nothing to send: what a cycle still does would disturb the next job."""
    group = site.group()
    return (
        group["state"] == "idle"
        and group["recovery_point"] is not None
        and group["changed_bytes"] == 0
    )


@contextmanager
def connected(pair: Pair) -> Iterator[Site]:
    """Run both sites; yields the primary once it has its link."""
    with pair.remote(), pair.primary() as site:
        wait_until(lambda: _link(site) == "connected", "link", 30)
        yield site


def _link(site: Site) -> object:
    link = site.group()["link"]
    assert isinstance(link, dict)
    return link["state"]
