"""Which record of several journals holds the old content of a track: the first.

The journals of successive points, oldest first, are a chain. A window answers for a
range of tracks at once, so that each journal is asked once, not for every track.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.storage.journal import Journal
from common.storage.journal_format import Entry

Run = tuple[int, int]
Piece = tuple[int, int, Journal, Entry]
"""(first track, count, journal, entry): these tracks lie within that entry."""

WINDOW_TRACKS = 1 << 16
"""256 MiB of a volume with tracks of 4 KiB."""

NOBODY = -1

Owners = npt.NDArray[np.int32]


class Window:
    """The owners of `WINDOW_TRACKS` tracks from `first` on, by the first `covered`
    journals of a chain."""

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.covered = 0
        self._owners: Owners = np.full(count, NOBODY, np.int32)
        self._entries: list[tuple[int, Entry]] = []
        """(index in the chain, entry)."""

    @property
    def size_bytes(self) -> int:
        return self._owners.nbytes + 200 * len(self._entries)

    def cover(self, chain: Sequence[Journal], covered: int) -> None:
        """Ask the journals that it does not know yet, up to `covered`."""
        owners, count = self._owners, len(self._owners)
        for index in range(self.covered, covered):
            for entry in chain[index].find(self.first, count):
                start = max(entry[0] - self.first, 0)
                part = owners[start : entry[0] + entry[1] - self.first]
                clear = part == NOBODY
                if clear.any():
                    part[clear] = len(self._entries)
                    self._entries.append((index, entry))
        self.covered = covered

    def pieces(
        self, chain: Sequence[Journal], first: int, count: int
    ) -> tuple[list[Piece], list[Run]]:
        """Return what the journals hold of a range, and the runs that none holds."""
        part = self._owners[first - self.first : first - self.first + count]
        changes = np.flatnonzero(part[1:] != part[:-1]) + 1
        starts = [0, *changes.tolist(), count]
        pieces: list[Piece] = []
        left: list[Run] = []
        for start, end in itertools.pairwise(starts):
            owner = int(part[start])
            if owner == NOBODY:
                left.append((first + start, end - start))
            else:
                index, entry = self._entries[owner]
                pieces.append((first + start, end - start, chain[index], entry))
        return pieces, left


def ask_each(
    chain: Sequence[Journal], runs: list[Run]
) -> tuple[list[Piece], list[Run]]:
    """Return what the journals hold of the runs, and the runs they do not."""
    pieces: list[Piece] = []
    for journal in chain:
        if not runs:
            break
        left: list[Run] = []
        for first, count in runs:
            cursor, end = first, first + count
            for entry in journal.find(first, count):
                start = max(cursor, entry[0])
                stop = min(end, entry[0] + entry[1])
                if start > cursor:
                    left.append((cursor, start - cursor))
                if start < stop:
                    pieces.append((start, stop - start, journal, entry))
                    cursor = stop
            if cursor < end:
                left.append((cursor, end - cursor))
        runs = left
    return pieces, runs
