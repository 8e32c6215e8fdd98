"""Socket files of daemons that died, in the way of one that starts."""

from __future__ import annotations

import enum
import os
import socket
import stat
from pathlib import Path


class Occupied(enum.Enum):
    """Why a path can't be listened on."""

    BY_DAEMON = enum.auto()
    BY_FILE = enum.auto()


def clear_stale(path: str) -> Occupied | None:
    """Remove the socket file of a daemon that died; tell what else is there.

    None: nothing is there any more. Raises `OSError`.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISSOCK(mode):
        return Occupied.BY_FILE
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog must not block us
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return None
        except BlockingIOError:
            pass  # it lives: its queue of connections is full
    return Occupied.BY_DAEMON
