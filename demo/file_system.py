"""A host's ext4 with files in it, and what somebody who recovers it finds.

No root and no mount: the file system's own tools (e2fsprogs) make it, put files into it
and read them out of it, in an ordinary file. The blocks that an edit has changed are
what the host then writes to its volume.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.commands import attempt, done, tool

BLOCK_BYTES: Final = 4096
FILE_BYTES_MAX: Final = 200_000
MANIFEST: Final = "SHA256SUMS"
PACKAGE: Final = "e2fsprogs"


class HostFiles:
    """The file system as its host has it in memory; `changed` has to be written."""

    def __init__(self, directory: Path, size_bytes: int, seed: int) -> None:
        self._directory = directory
        self._image = directory / "image"
        self._chance = random.Random(seed)  # noqa: S311 - text, not secrets
        self._sums: dict[str, str] = {}
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        done(tool("mkfs.ext4", PACKAGE), "-q", "-b", str(BLOCK_BYTES), self._image)
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
        done(tool("debugfs", PACKAGE), "-w", "-f", script, self._image)
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
    checked = attempt(tool("e2fsck", PACKAGE), "-f", "-n", image)
    if checked.returncode:
        said = (checked.stderr or checked.stdout).strip().splitlines()
        why = said[-1].partition(" while ")[0] if said else "it failed"
        return Examined(0, f"e2fsck finds a fault: {why.rpartition(': ')[2]}"[:100])
    out = directory / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    done(tool("debugfs", PACKAGE), "-R", f"rdump / {out}", image)
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
