"""An exhibit: a bug, put back into a copy of the tree, and the test that must notice.

The product has no switch for any of them. A bug is told as exact replacements of the
sources; where one no longer applies, the exhibit has to be looked at again.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

PRODUCT = ("common", "primary_site", "remote_site")


class NoLongerAppliesError(AssertionError):
    """The sources have changed under an exhibit."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """`old` is found `count` times in the file, and gives way to `new` each time."""

    path: str
    old: str
    new: str
    count: int = 1

    def applied(self, text: str) -> str:
        """Return the text with the bug in it."""
        found = text.count(self.old)
        if found != self.count:
            raise NoLongerAppliesError(
                f"{self.path}: found {found} times, not {self.count}:\n{self.old}"
            )
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class ByTests:
    """ByTests of pytest by their ids; they are run up to the first that fails."""

    ids: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "tests"

    def __str__(self) -> str:
        return ", ".join(self.ids)


FAULTS = {
    "faults of flushes": frozenset({"datasync", "sync_directory"}),
    "faults of reads": frozenset({"read", "extents"}),
}
"""At each such call to a disk a fault, as in tests/faults."""

KINDS = frozenset(
    {
        *FAULTS,
        "simulation",
        "circles",
        "primary",
        "remote",
        "reshaping",
        "adoption",
        "takeover",
        "failback",
        "record",
        "bitmap",
        "region_log",
        "journal",
    }
)
"""Of seeds: the simulation, its runs in which roles go round, and what crashes are
explored of."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """Seeds of one of `KINDS`, `first` and on, up to the first that fails."""

    of: str
    count: int
    first: int = 0

    @property
    def kind(self) -> str:
        return "seeds"

    def __str__(self) -> str:
        return f"python -m tests.museum.hunting {self.of!r} {self.first} {self.count}"


@dataclass(frozen=True, slots=True)
class Exhibit:
    """`says`: a regular expression that the failure must match, so that it is red
    for the bug's sake and not for a mistake in the exhibit."""

    number: str
    title: str
    replacements: tuple[Replacement, ...]
    caught_by: ByTests | Seeds
    says: str
    elsewhere: str = ""
    """What happened where it was met, in our words, and where that is told."""
    order: str = ""
    """The function of docs/internals/recovery.md whose order it breaks."""

    @property
    def bug(self) -> str:
        """The number without the letter that tells several exhibits of it apart."""
        return self.number.rstrip("abcdefgh")


@dataclass(frozen=True, slots=True)
class Missing:
    """A bug that cannot be here. `until`: matches the product's text once it can."""

    number: str
    title: str
    elsewhere: str
    reason: str
    until: str


def swap(path: str, old: str, new: str, count: int = 1) -> Replacement:
    """Return a replacement in one of the product's files."""
    assert path.partition("/")[0] in PRODUCT, path
    return Replacement(path, old, new, count)


def tests(*ids: str) -> ByTests:
    """Return tests, each named as it is below `tests/`."""
    return ByTests(tuple(f"tests/{each}" for each in ids))


def put_in(tree: Path, exhibit: Exhibit) -> None:
    """Put the bug into a tree; raises `NoLongerAppliesError`."""
    for each in exhibit.replacements:
        path = tree / each.path
        text = each.applied(path.read_text())
        compile(text, each.path, "exec")
        before = path.stat()
        path.write_text(text)
        # Compiled code of before counts as this text's if second and size are the same.
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 2 * 10**9))


def product_text(repository: Path) -> str:
    """Return all of the product's sources, for `Missing.until`."""
    return "\n".join(
        path.read_text()
        for package in PRODUCT
        for path in sorted((repository / package).rglob("*.py"))
    )


def can_be_here(missing: Missing, text: str) -> bool:
    return re.search(missing.until, text) is not None
