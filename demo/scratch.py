"""What both demos run in: a directory of their own, kept only if something failed."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, Never

from rich.console import Console

from common.errors import FarshoreError
from demo.sites import SOCKET_PATH_BYTES_MAX, DemoError

SOCKET_NAME_BYTES: Final = 32


def run_in_scratch(
    screen: Console, prefix: str, run: Callable[[Console, Path], bool]
) -> int:
    """Run a demo; return its exit status: 0 only if `run` says that the check held."""
    signal.signal(signal.SIGTERM, _terminated)
    root = _scratch_directory(prefix)
    try:
        has_held = run(screen, root)
    except KeyboardInterrupt:
        shutil.rmtree(root, ignore_errors=True)
        return 130
    except (DemoError, FarshoreError, OSError) as error:
        screen.print(f"\nThe demo could not be carried through: {error}")
        screen.print(f"Configs, logs and state are kept in {root}", soft_wrap=True)
        return 2
    if not has_held:
        screen.print(f"Configs, logs and state are kept in {root}", soft_wrap=True)
        return 1
    shutil.rmtree(root, ignore_errors=True)
    return 0


def _terminated(number: int, frame: FrameType | None) -> Never:
    del number, frame
    raise KeyboardInterrupt


def _scratch_directory(prefix: str) -> Path:
    """Return a new directory whose sockets' paths are short enough."""
    root = Path(tempfile.mkdtemp(prefix=prefix))
    if len(os.fsencode(root)) + SOCKET_NAME_BYTES > SOCKET_PATH_BYTES_MAX:
        root.rmdir()
        root = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    return root
