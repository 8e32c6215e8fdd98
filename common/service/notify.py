"""Tell systemd how the service stands: sd_notify(3) by a plain datagram."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence


def notify(
    *assignments: str,
    environment: Mapping[str, str] = os.environ,
    descriptors: Sequence[int] = (),
    patience_seconds: float = 0.0,
) -> bool:
    """Send assignments such as "READY=1"; tell whether systemd listens.

    Copies of `descriptors` go along. Where its queue is full it is waited for so long.

    Without NOTIFY_SOCKET nothing is sent. A failure is no reason to stop a
    service: it is reported as False.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    # A status is for one line of `systemctl status`.
    message = "\n".join(item.replace("\n", " ") for item in assignments)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            # systemd reads at once; a stuck reader must not block the loop.
            channel.settimeout(patience_seconds)
            channel.connect(address)
            if descriptors:
                socket.send_fds(channel, [message.encode()], list(descriptors))
            else:
                channel.send(message.encode())
    except OSError:
        return False
    return True


def notify_ready(status: str) -> bool:
    """Say that the service is up, with one line for `systemctl status`."""
    return notify("READY=1", f"STATUS={status}")


def notify_status(status: str) -> bool:
    """Set the line that `systemctl status` shows."""
    return notify(f"STATUS={status}")


def notify_reloading() -> bool:
    """Say that the config is being read again; `notify_ready` says that it is done."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}")


def notify_stopping() -> bool:
    return notify("STOPPING=1")
