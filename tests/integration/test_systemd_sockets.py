"""Sockets that systemd listens on, handed to the real daemon.

`systemd-socket-activate` starts what it is given at the first connection, as a
socket unit does; what it cannot do, keep the socket over a restart, the test does
itself by the same rules (sd_listen_fds(3)).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.certificates import TlsFiles
from tests.support.certificates import Certificates
from tests.support.nbd_client import NbdClient
from tests.support.sites import (
    REPOSITORY,
    Daemon,
    Pair,
    VolumeSpec,
    command_path,
    free_port,
    tls_table,
    until,
)

SIZE_BYTES = 1 << 20
AS_SYSTEMD = """
import os, sys
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="hosts")
os.dup2(int(sys.argv[1]), 3)
os.execv(sys.argv[2], sys.argv[2:])
"""
TELL_OF_CHILDREN = """
import asyncio, json, os, subprocess
from common.nbd.server import NbdServer
from tests.support.memory_volume import MemoryExports

LIST = "import os; print(os.path.exists('/proc/self/fd/3'), sorted(os.environ))"

async def main():
    assert "LISTEN_FDS" in os.environ
    server = NbdServer(MemoryExports({}))
    await server.listen(["systemd:hosts"])
    held = os.path.exists("/proc/self/fd/3")
    child = [os.sys.executable, "-c", LIST]
    told = subprocess.run(child, close_fds=False, capture_output=True, text=True)
    await server.close()
    print(held, os.path.exists("/proc/self/fd/3"), told.stdout, told.stderr)

asyncio.run(main())
"""


def activated(directory: Path, listen: list[str], tls: TlsFiles | None = None) -> Pair:
    """Return sites whose primary has the addresses systemd hands over, no others."""
    nbd: dict[str, object] = {"listen": listen}
    if tls is not None:
        nbd["tls"] = tls_table(tls)
    return Pair(directory, [VolumeSpec("v", SIZE_BYTES)], nbd=nbd)


def spawn(primary: Daemon, *before: str, pass_fds: tuple[int, ...] = ()) -> None:
    """Start the primary by another command, which becomes it."""
    with primary.log_path.open("ab") as log:
        primary.process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *before,
                command_path("farshore-primary"),
                *("--config", str(primary.config_path)),
            ],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            pass_fds=pass_fds,
        )


async def listens(path: str) -> None:
    """Return once a connection is taken; the daemon may not be there yet."""

    def takes() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(path) == 0

    await until(takes, f"{path} listens")


async def run(*command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.needs_package("systemd-socket-activate", "nbdinfo", "nbdcopy")
async def test_sockets_of_systemd_serve_hosts_plain_and_over_tls(
    tmp_path: Path,
) -> None:
    certificates = Certificates(tmp_path)
    listen = ["systemd:hosts", "systemd+tls:tls"]
    with activated(tmp_path, listen, certificates.server_files()) as pair:
        path, port = pair.primary.nbd_socket, free_port()
        spawn(
            pair.primary,
            "systemd-socket-activate",
            "--fdname=hosts:tls",
            f"--listen={path}",
            f"--listen=[::]:{port}",
        )
        await listens(path)
        client = await NbdClient.connect(f"unix:{path}", "g/v")
        await client.write(0, b"handed over")
        await client.disconnect()

        folder = certificates.client("app.test")
        for host in ("127.0.0.1", "[::1]"):
            uri = f"nbds://{host}:{port}/g/v?tls-certificates={folder}"
            code, output = await run("nbdcopy", uri, str(tmp_path / "copy"))
            assert code == 0, output
            assert (tmp_path / "copy").read_bytes().startswith(b"handed over")
        code, output = await run("nbdinfo", f"nbd://[::1]:{port}/g/v")
        assert code != 0
        assert "TLS" in output

        await pair.primary.stop()
        assert Path(path).is_socket()


@contextlib.asynccontextmanager
async def held_socket(path: Path) -> AsyncIterator[socket.socket]:
    """A listening socket, as systemd holds one while its service comes and goes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        held.bind(str(path))
        held.listen(16)
        yield held


async def test_hosts_that_come_while_the_daemon_is_away_are_served_when_it_is_back(
    tmp_path: Path,
) -> None:
    with activated(tmp_path, ["systemd:hosts"]) as pair:
        path = Path(pair.primary.nbd_socket)
        async with held_socket(path) as held:
            number = held.fileno()
            python = (sys.executable, "-c", AS_SYSTEMD, str(number))
            spawn(pair.primary, *python, pass_fds=(number,))
            client = await NbdClient.connect(f"unix:{path}", "g/v")
            await client.write(0, b"before")
            await client.flush()
            await pair.primary.stop()
            assert path.is_socket()

            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting:
                waiting.connect(str(path))
                spawn(pair.primary, *python, pass_fds=(number,))
                greeting = await asyncio.to_thread(waiting.recv, 8)
                assert greeting == b"NBDMAGIC"
            client = await NbdClient.connect(f"unix:{path}", "g/v")
            assert await client.read(0, 6) == b"before"
            await client.disconnect()
            await pair.primary.stop()
            assert path.is_socket()


@pytest.mark.parametrize(
    ("listen", "kind", "said"),
    [
        ("systemd:other", socket.SOCK_STREAM, "FileDescriptorName=other"),
        ("systemd:hosts", socket.SOCK_DGRAM, "ListenStream="),
        # Bound, but nobody listens.
        ("systemd:hosts", socket.SOCK_STREAM, "ListenStream="),
    ],
)
async def test_what_is_not_a_socket_to_listen_on_is_refused_by_the_unit_s_setting(
    tmp_path: Path, listen: str, kind: int, said: str
) -> None:
    with (
        activated(tmp_path, [listen]) as pair,
        socket.socket(socket.AF_UNIX, kind) as held,
    ):
        held.bind(pair.primary.nbd_socket)
        number = held.fileno()
        spawn(
            pair.primary,
            sys.executable,
            "-c",
            AS_SYSTEMD,
            str(number),
            pass_fds=(number,),
        )
        assert await pair.primary.ended() == 3
        assert said in pair.primary.log_text()


async def test_plain_tcp_of_systemd_beyond_this_machine_is_refused(
    tmp_path: Path,
) -> None:
    with (
        activated(tmp_path, ["systemd:hosts"]) as pair,
        socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
        ) as held,
    ):
        number = held.fileno()
        spawn(
            pair.primary,
            sys.executable,
            "-c",
            AS_SYSTEMD,
            str(number),
            pass_fds=(number,),
        )
        assert await pair.primary.ended() == 3
        assert "allow_plaintext_nbd = true" in pair.primary.log_text()


async def test_children_inherit_neither_the_sockets_nor_word_of_them(
    tmp_path: Path,
) -> None:
    async with held_socket(tmp_path / "s") as held:
        number = held.fileno()
        done = subprocess.run(
            [
                *(sys.executable, "-c", AS_SYSTEMD, str(number)),
                *(sys.executable, "-c", TELL_OF_CHILDREN),
            ],
            pass_fds=(number,),
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    held_there, after, inherited, *variables = done.stdout.split()
    # The very descriptor was used, and is closed with the server.
    assert (held_there, after, inherited) == ("True", "False", "False")
    assert not [name for name in variables if "LISTEN_" in name]
    assert (tmp_path / "s").is_socket()
