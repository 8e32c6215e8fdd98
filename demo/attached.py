"""Exports as files, block devices and mounts, undone whatever happens."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from demo.commands import COMMAND_SECONDS_MAX, done
from demo.sites import DemoError

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
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )


@contextlib.contextmanager
def running(
    *words: object, appears: Path, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; return once its file is there.

    `log`: where it complains to, instead of here.
    """
    with contextlib.ExitStack() as opened:
        errors = None if log is None else opened.enter_context(log.open("ab"))
        process = subprocess.Popen([str(word) for word in words], stderr=errors)
    try:
        deadline = time.monotonic() + APPEAR_SECONDS
        while not appears.exists():
            if process.poll() is not None:
                raise DemoError(f"{words} ended with exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise DemoError(f"{words}: no {appears}")
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
    """Show an export as a file, with nbdfuse; its log is beside the directory."""
    directory.mkdir()
    file, log = directory / "nbd", directory.with_suffix(".log")
    with running("nbdfuse", *options, directory, uri, appears=file, log=log):
        try:
            yield file
        finally:
            quietly("fusermount3", "-u", "-z", directory)


@contextlib.contextmanager
def loop_device(file: Path, *options: str) -> Iterator[str]:
    """Make a file a block device. Needs root."""
    device = done("losetup", *options, "--find", "--show", file)
    try:
        yield device
    finally:
        quietly("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(device: str, directory: Path, *options: str) -> Iterator[Path]:
    """Mount a block device. Needs root."""
    directory.mkdir()
    done("mount", *options, device, directory)
    try:
        yield directory
    finally:
        _unmount(directory)


def _unmount(directory: Path) -> None:
    """Unmount; whoever was killed may hold it for a moment longer."""
    deadline = time.monotonic() + END_SECONDS
    while directory.is_mount():
        if time.monotonic() > deadline:
            quietly("umount", "--lazy", directory)
            return
        quietly("umount", directory)
        time.sleep(POLL_SECONDS)
