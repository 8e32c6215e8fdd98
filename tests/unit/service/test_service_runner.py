"""The daemon's process: its ends, its signals, and what systemd hears of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.service.notify import notify, notify_ready

ROOT = Path(__file__).parents[3]

PROGRAM = """
import asyncio, sys
import uvloop
from common.errors import DeviceError
from common.service.notify import notify_ready
from common.service.runner import run

async def main(stop):
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    assert sys.getswitchinterval() < 0.001
    {body}
    notify_ready("serving")
    print("up", flush=True)
    await stop.wait()
    print("down", flush=True)

sys.exit(run({name!r}, main))
"""


def start(
    body: str = "pass", name: str = "farshore-primary", **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body, name=name)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20.0)
        yield listener


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order_and_systemd_hears_of_it(
    number: int, systemd: socket.socket
) -> None:
    daemon = start(NOTIFY_SOCKET=systemd.getsockname())
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == "up\n"
    daemon.send_signal(number)
    output, errors = daemon.communicate(timeout=20)

    assert daemon.returncode == 0, errors
    event, down = output.splitlines()
    assert json.loads(event)["event"] == "stop_requested"
    assert (down, errors) == ("down", "")
    assert systemd.recv(1000) == b"READY=1\nSTATUS=serving"
    assert systemd.recv(1000) == b"STOPPING=1"


def test_an_error_for_the_operator_is_one_sentence_and_its_exit_code() -> None:
    daemon = start("raise DeviceError('volume g/v: /dev/x\\x1b: mend it')")
    output, errors = daemon.communicate(timeout=20)

    assert daemon.returncode == DEVICE_EXIT_CODE
    assert errors == "farshore-primary: volume g/v: /dev/x\\x1b: mend it\n"
    assert output == ""


DEVICE_EXIT_CODE = 4


def test_a_bug_is_logged_with_its_traceback() -> None:
    daemon = start("raise ZeroDivisionError('here')")
    output, errors = daemon.communicate(timeout=20)

    line = json.loads(output)
    assert (daemon.returncode, errors) == (70, "")
    assert line["event"] == "daemon_failed"
    assert "ZeroDivisionError: here" in line["exception"]


def test_another_package_named_common_is_refused(tmp_path: Path) -> None:
    """Its parent folder has no `remote_site`: as if another wheel had replaced it."""
    (tmp_path / "common").symlink_to(ROOT / "common")
    copied = tmp_path / "copy"
    copied.mkdir()
    subprocess.run(["cp", "-rL", tmp_path / "common", copied], check=True)
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body="pass", name="farshore-remote")],
        cwd=copied,
        capture_output=True,
        text=True,
        timeout=20,
    )

    assert finished.returncode == 1
    assert "remote_site is not beside it" in finished.stderr


def test_without_systemd_nothing_is_sent() -> None:
    assert not notify("READY=1", environment={})
    assert not notify("READY=1", environment={"NOTIFY_SOCKET": "relative"})
    assert not notify("READY=1", environment={"NOTIFY_SOCKET": "/nowhere"})


def test_a_status_stays_on_one_line(systemd: socket.socket) -> None:
    environment: dict[str, Any] = {"NOTIFY_SOCKET": systemd.getsockname()}

    assert notify("STATUS=a\nREADY=1", environment=environment)
    assert systemd.recv(1000) == b"STATUS=a READY=1"


def test_an_abstract_socket_is_reached() -> None:
    name = f"farshore-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(20.0)

        assert notify("READY=1", environment={"NOTIFY_SOCKET": f"@{name}"})
        assert listener.recv(100) == b"READY=1"


def test_readiness_outside_systemd_is_no_error() -> None:
    assert not notify_ready("serving") or "NOTIFY_SOCKET" in os.environ
