"""What a process uses, as Linux tells it in /proc."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.sites import Daemon

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_UTIME_FIELD = 11
"""Of /proc/PID/stat, counted after the command's closing parenthesis."""


def process_id(daemon: Daemon) -> int:
    assert daemon.process is not None
    return daemon.process.pid


def descriptor_count(daemon: Daemon) -> int:
    """Return how many files, sockets and pipes it has open."""
    return len(os.listdir(f"/proc/{process_id(daemon)}/fd"))


def resident_bytes(daemon: Daemon) -> int:
    """Return the memory it has (VmRSS)."""
    status = Path(f"/proc/{process_id(daemon)}/status").read_text()
    (line,) = [each for each in status.splitlines() if each.startswith("VmRSS:")]
    return int(line.split()[1]) << 10


def cpu_seconds(daemon: Daemon) -> float:
    """Return the processor time it has used, all threads together."""
    stat = Path(f"/proc/{process_id(daemon)}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[_UTIME_FIELD]) + int(fields[_UTIME_FIELD + 1])
    return ticks / _TICKS_PER_SECOND
