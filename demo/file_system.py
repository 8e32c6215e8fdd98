"""A host's ext4 with files in it, and what somebody who recovers it finds.

No root and no mount: the file system's own tools (e2fsprogs) make it, put files into it
and read them out of it, in an ordinary file. The blocks that an edit has changed are
what the host then writes to its volume.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.sites import DemoError

BLOCK_BYTES: Final = 4096
FILE_BYTES_MAX: Final = 200_000
MANIFEST: Final = "SHA256SUMS"
TOOL_SECONDS_MAX: Final = 60.0
_PLACES: Final = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/bin", "/bin"))


def tool(name: str) -> str:
    """Return the path of a command of e2fsprogs; raise DemoError without it."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + _PLACES)
    if found is None:
        raise DemoError(f"there is no {name} here: install e2fsprogs")
    return found


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TOOL_SECONDS_MAX,
        check=False,
    )


def _done(*words: str | Path) -> None:
    done = _run(*words)
    if done.returncode:
        raise DemoError(f"{words[0]} failed: {done.stderr.strip()[-300:]}")


class HostFiles:
    """The file system as its host has it in memory; `changed` has to be written."""

    def __init__(self, directory: Path, size_bytes: int, seed: int) -> None:
        self._directory = directory
        self._image = directory / "image"
        self._chance = random.Random(seed)  # noqa: S311 - text, not secrets
        self._sums: dict[str, str] = {}
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        _done(tool("mkfs.ext4"), "-q", "-b", str(BLOCK_BYTES), self._image)
        self._written = bytes(size_bytes)

    @property
    def count(self) -> int:
        return len(self._sums)

    def edit(self) -> None:
        """Add a file, and write the list of all files' digests anew."""
        name = f"letter-{self.count + 1:03}"
        content = self._chance.randbytes(self._chance.randrange(1000, FILE_BYTES_MAX))
        self._sums[name] = hashlib.sha256(content).hexdigest()
        manifest = "".join(f"{digest}  {each}\n" for each, digest in self._sums.items())
        (self._directory / name).write_bytes(content)
        (self._directory / MANIFEST).write_text(manifest)
        script = self._directory / "script"
        script.write_text(
            f"cd /\nwrite {self._directory / name} {name}\n"
            f"rm {MANIFEST}\nwrite {self._directory / MANIFEST} {MANIFEST}\n"
        )
        _done(tool("debugfs"), "-w", "-f", script, self._image)
        (self._directory / name).unlink()

    def changed(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, block) of what is not yet as it was yielded last."""
        now = self._image.read_bytes()
        for offset in range(0, len(now), BLOCK_BYTES):
            block = now[offset : offset + BLOCK_BYTES]
            if block != self._written[offset : offset + BLOCK_BYTES]:
                yield offset, block
        self._written = now


@dataclass(frozen=True, slots=True)
class Examined:
    """What is in an image: `fault` is None for a sound file system whose files are all
    as its own list of digests says; `files` counts those that are."""

    files: int
    fault: str | None


def examine(image: Path, directory: Path) -> Examined:
    """Check a file system, read every file out of it and compare the digests."""
    checked = _run(tool("e2fsck"), "-f", "-n", image)
    if checked.returncode:
        said = (checked.stderr or checked.stdout).strip().splitlines()
        why = said[-1].partition(" while ")[0] if said else "it failed"
        return Examined(0, f"e2fsck finds a fault: {why.rpartition(': ')[2]}"[:100])
    out = directory / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    _done(tool("debugfs"), "-R", f"rdump / {out}", image)
    try:
        listed = (out / MANIFEST).read_text().splitlines()
        good = 0
        for line in listed:
            digest, _, name = line.partition("  ")
            content = (out / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                return Examined(good, f"{name} is not what it was")
            good += 1
    except (OSError, ValueError) as error:
        return Examined(0, str(error)[:100])
    return Examined(good, None)
