"""End a program that was started in a session of its own, and all it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

KILLED_SECONDS = 1.0
"""What a killed process gets to be gone; one that waits for a device may not be."""


def end_group(process: subprocess.Popen[bytes], terminate_seconds: float) -> int | None:
    """Ask a process group to end, then kill it; return its leader's exit code.

    None: the leader is there still, killed and waiting for a device. Blocks for
    `terminate_seconds` and a second at most. Ctrl-C cuts the first of these short.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(terminate_seconds)
    # Also where the leader has ended: what it left behind may still be at work.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(KILLED_SECONDS)
    return None
