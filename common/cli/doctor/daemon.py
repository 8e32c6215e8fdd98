"""Of the daemon: does it answer, of what release is it, what does it say itself?"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

from common.cli.doctor.findings import Finding, failed, fine, warning
from common.service.version import farshore_version

_CREDENTIALS = struct.Struct("3i")
STATES_FAILED = frozenset({"failed", "suspect", "superseded"})


def daemon_pid(control_socket: str) -> int | None:
    """Return who listens at the control socket, as the kernel tells it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(control_socket)
            told = probe.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
    except OSError:
        return None
    pid: int = _CREDENTIALS.unpack(told)[0]
    return pid or None


def check_status(status: dict[str, Any]) -> Iterator[Finding]:
    own, its = farshore_version(), status["version"]
    if own != its:
        yield warning(
            "version",
            "daemon",
            f"the daemon is {its}, this command {own}",
            "restart the daemon, or use the command that came with it",
        )
    else:
        yield fine("daemon", status["site"], f"{status['role']}, farshore {its}")
    for group in status["groups"]:
        yield from _group(group)


def _group(group: dict[str, Any]) -> Iterator[Finding]:
    name, state = group["name"], group["state"]
    for alarm in group["alarms"]:
        yield failed(
            "daemon",
            name,
            f"alarm {alarm['name']}: {alarm['message']}",
            "docs/operating/troubleshooting.md, by alarm",
        )
    if state in STATES_FAILED:
        yield failed(
            "daemon",
            name,
            f"the group is {state.replace('_', ' ')}",
            "docs/operating/monitor.md, under states",
        )
    elif not group["alarms"]:
        yield fine("daemon", name, state.replace("_", " "))
