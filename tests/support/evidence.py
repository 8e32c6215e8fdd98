"""What a run of the tests found out, in figures, for docs/reliability.md.

    record("crash_images", "python -m tests.crash.explore --images 1000000",
           {"images": 1000213, "violations": 0})

writes build/evidence/crash_images.json below the repository, or NAME.json in the
folder that FARSHORE_EVIDENCE names. `make evidence` gathers these files. One file a
name: a run replaces what an earlier one said.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("common", "primary_site", "remote_site")
DIRECTORY_VARIABLE = "FARSHORE_EVIDENCE"

Figure = int | float | str | list[Any] | dict[str, Any]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_DIGEST_CHARACTERS = 16
_GIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Record:
    """The last run of one kind."""

    name: str
    command: str
    recorded_at: str
    """UTC, to the second, as in 2026-01-31T12:00:00Z."""
    commit: str
    """What HEAD was, or `unknown` outside a clone."""
    sources: str
    """Digest of the product's sources as they were, committed or not."""
    platform: str
    figures: dict[str, Any]


def record(name: str, command: str, figures: Mapping[str, Figure]) -> None:
    """Write what a run found; a reader sees the old file or the whole new one.

    `command` is what to type to run it again. Figures are named in snake_case with
    their unit last; they have to survive JSON.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of evidence: lower case, digits and _")
    found = {
        "name": name,
        "command": command,
        "recorded_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "sources": sources_digest(),
        "platform": machine(),
        "figures": dict(figures),
    }
    write_atomically(
        directory() / f"{name}.json",
        json.dumps(found, indent=2, sort_keys=True, allow_nan=False) + "\n",
    )


def directory() -> Path:
    """Return where records are written."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    return Path(named) if named else REPOSITORY / "build" / "evidence"


def read_records(folder: Path) -> dict[str, Record]:
    """Return the records of a folder by name; raises ValueError for a foreign file."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            each = Record(**json.loads(path.read_text()))
        except TypeError as error:
            raise ValueError(f"{path} is no record of evidence: {error}") from None
        if each.name != path.stem:
            raise ValueError(f"{path} says that its name is {each.name!r}")
        found[each.name] = each
    return found


def commit() -> str:
    """Return the commit that is checked out, or `unknown`."""
    command = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY)]
    try:
        answer = subprocess.run(
            [*command, "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"


def sources_digest(repository: Path = REPOSITORY) -> str:
    """Return a digest of the product's own Python files, names and contents."""
    digest = hashlib.sha256()
    for package in PRODUCT:
        for path in sorted((repository / package).rglob("*.py")):
            name = path.relative_to(repository).as_posix().encode()
            content = path.read_bytes()
            digest.update(b"%d:%s%d:" % (len(name), name, len(content)))
            digest.update(content)
    return digest.hexdigest()[:_DIGEST_CHARACTERS]


def machine() -> str:
    """Say on what kind of machine this is, without naming it."""
    python = ".".join(map(str, sys.version_info[:3]))
    kernel = platform.release().split("-")[0]
    return (
        f"{platform.system()} {kernel} {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {python}"
    )


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    try:
        with open(descriptor, "w") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
