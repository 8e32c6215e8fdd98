"""What every part of the torture is given: time, chance, a folder, somebody to tell."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.evidence import Figure

Figures = dict[str, Figure]

PACKAGES = {
    "faketime": "faketime",
    "fusermount3": "fuse3",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "nft": "nftables",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "strace": "strace",
    "tc": "iproute2",
    "unshare": "util-linux",
    "xfs_io": "xfsprogs",
}
"""Where Debian keeps the commands that parts need."""


class Bench:
    """One part's share of the run. `absent` is told in the table at the end."""

    def __init__(self, name: str, seed: int, seconds: float, directory: Path) -> None:
        self.name = name
        self.seed = seed
        self.seconds = seconds
        self.directory = directory
        self.random = random.Random(f"{seed}/{name}")
        self.absent: list[str] = []
        self.point: str | None = None
        """Of a sweep, the only point to try; as its failure named it."""
        self.again: str | None = None
        """What besides --only and --seed runs the present point again."""
        self._began = time.monotonic()
        self._said = ""

    def left(self) -> float:
        """Return the seconds that are left of this part's share; below 0 if over."""
        return self.seconds - (time.monotonic() - self._began)

    def spent(self) -> float:
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Tell what is being done or was found, as it happens."""
        if text != self._said:
            self._said = text
            print(f"  {self.spent():6.1f} s  {self.name}: {text}", flush=True)

    def has(self, *commands: str, what: str) -> bool:
        """Whether commands are there; if not, say what is left out for want of them."""
        lacking = lacking_commands(commands)
        if lacking:
            self.without(f"{what} ({'; '.join(lacking)})")
        return not lacking

    def without(self, what: str) -> None:
        if what not in self.absent:
            self.absent.append(what)
            self.say(f"left out: {what}")


@dataclass(frozen=True)
class Part:
    """One kind of harm. `share`: of the whole run's time, in relation to the others."""

    name: str
    does: str
    share: float
    run: Callable[[Bench], Coroutine[Any, Any, Figures]]
    commands: tuple[str, ...] = ()
    """Without these there is nothing that the part could do."""
    needs_root: bool = False

    def lacks(self) -> list[str]:
        """Say what this part lacks on this machine; empty if it can run."""
        found = lacking_commands(self.commands)
        if self.needs_root and os.geteuid() != 0:
            found.append("needs root, for mounts and namespaces")
        return found


@dataclass
class Outcome:
    """What became of a part."""

    part: Part
    result: str
    """`held`, `failed: ...` or `absent: ...`."""
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    again: str | None = None

    @property
    def failed(self) -> bool:
        return self.result.startswith("failed")


def lacking_commands(commands: tuple[str, ...]) -> list[str]:
    """Say which commands are not here, and which package of Debian has them."""
    return [
        f"{name} is not installed (package {PACKAGES[name]})"
        for name in commands
        if shutil.which(name) is None
    ]
