"""Exports as files, block devices and mounts, undone whatever happens."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.client_commands import COMMAND_SECONDS, run

APPEAR_SECONDS = 20.0
END_SECONDS = 10.0
POLL_SECONDS = 0.01


def quietly(*words: object) -> None:
    """Undo something, as far as it goes: what comes next must be undone too."""
    with contextlib.suppress(subprocess.SubprocessError, OSError):
        subprocess.run(
            [str(word) for word in words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
        )


@contextlib.contextmanager
def running(*words: object, appears: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; return once its file is there."""
    process = subprocess.Popen([str(word) for word in words])
    try:
        deadline = time.monotonic() + APPEAR_SECONDS
        while not appears.exists():
            assert process.poll() is None, f"{words} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{words}: no {appears}"
            time.sleep(POLL_SECONDS)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_SECONDS)


@contextlib.contextmanager
def fuse_file(directory: Path, uri: str, *options: str) -> Iterator[Path]:
    """Show an export as a file, with nbdfuse."""
    directory.mkdir()
    file = directory / "nbd"
    with running("nbdfuse", *options, directory, uri, appears=file):
        try:
            yield file
        finally:
            quietly("fusermount3", "-u", "-z", directory)


@contextlib.contextmanager
def loop_device(file: Path, *options: str) -> Iterator[str]:
    """Make a file a block device. Needs root."""
    device = run("losetup", *options, "--find", "--show", file).strip()
    try:
        yield device
    finally:
        quietly("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(device: str, directory: Path, *options: str) -> Iterator[Path]:
    """Mount a block device. Needs root."""
    directory.mkdir()
    run("mount", *options, device, directory)
    try:
        yield directory
    finally:
        quietly("umount", directory)
