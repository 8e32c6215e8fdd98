"""The watchdog: as long as the main loop turns, systemd hears so.

A loop that is stuck says nothing, and systemd ends the process (WatchdogSec=) and
starts it again. Only the main loop counts: a group whose device hangs has a loop of
its own, and ending the process would help neither it nor the other groups.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from common.service.notify import notify

PINGS_PER_TIMEOUT = 4
"""So that one that is late, or two that are lost, end nothing (sd_watchdog_enabled(3)
advises two)."""


def watchdog_seconds(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return how long systemd waits for a sign of life; None where it does not."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not (microseconds.isascii() and microseconds.isdigit() and int(microseconds)):
        return None
    return int(microseconds) / 1e6


async def tell_of_life(environment: Mapping[str, str] = os.environ) -> None:
    """Send WATCHDOG=1 from this loop until cancelled; return where nobody waits."""
    timeout_seconds = watchdog_seconds(environment)
    if timeout_seconds is None:
        return
    while True:  # ends with the daemon
        notify("WATCHDOG=1", environment=environment)
        await asyncio.sleep(timeout_seconds / PINGS_PER_TIMEOUT)
