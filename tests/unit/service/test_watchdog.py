"""systemd's watchdog hears of the main loop, and of nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.service.watchdog import watchdog_seconds

ROOT = Path(__file__).parents[3]
TIMEOUT_USEC = 200_000

PROGRAM = """
import asyncio, os, signal, sys, threading
from common.service.notify import notify_ready
from common.service.runner import run

async def main(stop):
    def block():
        os.write(1, b"blocked\\n")
        os.read(0, 1)
        os.write(1, b"released\\n")
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, block)
    threading.Thread(target=stop_is_waited_for_elsewhere, daemon=True).start()
    notify_ready("up")
    await stop.wait()

def stop_is_waited_for_elsewhere():
    threading.Event().wait()

sys.exit(run("farshore-primary", main))
"""


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
)
def test_systemd_says_how_long_it_waits(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_seconds(environment) == seconds


def heard(systemd: socket.socket, what: bytes) -> None:
    while systemd.recv(1000) != what:
        pass


def test_a_loop_that_is_stuck_gives_no_sign_of_life(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20.0)
        daemon = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env=os.environ
            | {
                "NOTIFY_SOCKET": systemd.getsockname(),
                "WATCHDOG_USEC": str(TIMEOUT_USEC),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert daemon.stdin is not None
            assert daemon.stdout is not None
            heard(systemd, b"READY=1\nSTATUS=up")
            for _ in range(3):
                heard(systemd, b"WATCHDOG=1")
            daemon.send_signal(signal.SIGUSR1)
            assert daemon.stdout.readline() == b"blocked\n"
            systemd.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while systemd.recv(1000):  # what was sent before
                    pass
            systemd.settimeout(5 * TIMEOUT_USEC / 1e6)
            with pytest.raises(TimeoutError):
                systemd.recv(1000)
            systemd.settimeout(20.0)
            daemon.stdin.write(b"x")
            daemon.stdin.flush()
            assert daemon.stdout.readline() == b"released\n"
            heard(systemd, b"WATCHDOG=1")
            daemon.send_signal(signal.SIGTERM)
            heard(systemd, b"STOPPING=1")
            assert daemon.wait(20) == 0
        finally:
            daemon.kill()
            daemon.communicate()


def test_what_a_stuck_process_was_doing_is_told_when_it_is_ended() -> None:
    """systemd ends it by SIGABRT."""
    daemon = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert daemon.stdout is not None
        # The handler is there once its signal no longer ends the process: until then
        # the default would.
        status = Path(f"/proc/{daemon.pid}/status")
        bit = 1 << (signal.SIGUSR1 - 1)
        while not int(status.read_text().split("SigCgt:\t")[1].split()[0], 16) & bit:
            assert daemon.poll() is None
        daemon.send_signal(signal.SIGUSR1)
        assert daemon.stdout.readline() == b"blocked\n"
        daemon.send_signal(signal.SIGABRT)
        _, errors = daemon.communicate(timeout=20)
    finally:
        daemon.kill()
        daemon.communicate()
    assert daemon.returncode == -signal.SIGABRT
    assert b"in block\n" in errors
    assert b"in stop_is_waited_for_elsewhere\n" in errors
