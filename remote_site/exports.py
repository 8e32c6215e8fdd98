"""NBD exports of the remote: recovery points, read-only, and test copies.

`GROUP/VOLUME` is the newest point, `GROUP/VOLUME@N` point N, `GROUP/VOLUME+NAME` a
test copy. Names are looked up, never used as paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from common.ports import HostVolume
from remote_site.store import GroupStore
from remote_site.test_copies import GroupTestCopies

_NAME = re.compile(
    r"(?P<group>[A-Za-z0-9._-]{1,64})/(?P<volume>[A-Za-z0-9._-]{1,64})"
    r"(?:@(?P<number>0|[1-9][0-9]{0,18})|\+(?P<copy>[A-Za-z0-9._-]{1,64}))?",
    re.ASCII,
)


class ExportedGroup(Protocol):
    """A group whose points are served."""

    @property
    def name(self) -> str: ...

    @property
    def store(self) -> GroupStore: ...

    @property
    def test_copies(self) -> GroupTestCopies | None: ...


class RecoveryExports:
    """The `ExportTable` of a site that has points."""

    def __init__(self, groups: Mapping[str, ExportedGroup]) -> None:
        self._groups = groups

    def names(self) -> list[tuple[str, str]]:
        """List what has a recovery point: for each volume the newest, then each.

        Then the test copies.
        """
        found: list[tuple[str, str]] = []
        for group in self._groups.values():
            points = group.store.points
            if not points:
                continue
            store = group.store
            for offer, member in store.enrolled:
                name = f"{group.name}/{offer.name}"
                newest = points[-1].number
                if store.takeover is None and member.has(newest):
                    found.append((name, f"newest recovery point, {newest}"))
                found += [
                    (f"{name}@{point.number}", f"recovery point {point.number}")
                    for point in points
                    if member.has(point.number)
                ]
            if group.test_copies is not None:
                found += group.test_copies.exports()
        return found

    def open(self, name: str) -> HostVolume | None:
        """Open a point of a volume, which the opening keeps, or a test copy."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        group = self._groups.get(match["group"])
        if group is None:
            return None
        if match["copy"] is not None:
            copies = group.test_copies
            if copies is None:
                return None
            return copies.open(match["volume"], match["copy"])
        number = None if match["number"] is None else int(match["number"])
        if number is None and group.store.takeover is not None:
            return None  # hosts are to find a volume that they may write to, or none
        return group.store.open_point(match["volume"], number)
