"""Where each track of a recovery point lies: in which journal's record, or none.

image(k) of a track is its first record in the journals of points k, k+1, ... With a
thousand of them nobody can ask each for every read, so the answers are kept: a map of
a window of tracks, made when the first read touches it. Finished journals never change
and the first record wins, so that a map stays right while newer points come: what was
finished since is asked directly, and taken into the map once that has become much.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from common.storage.journal import Journal
from common.storage.journal_window import WINDOW_TRACKS, Piece, Run, Window, ask_each

DIRECT_MAX = 8
"""Journals that are asked one after the other rather than mapped."""

MAP_BYTES_MAX = 16 << 20
"""Of the windows that one opened point keeps."""


class PointMap:
    """Of one opened point. From any thread; may block."""

    def __init__(self, track_count: int) -> None:
        self._track_count = track_count
        self._lock = threading.Lock()
        self._chain: tuple[Journal, ...] = ()
        self._windows: OrderedDict[int, Window] = OrderedDict()

    def resolve(
        self, chain: tuple[Journal, ...], runs: list[Run]
    ) -> tuple[list[Piece], list[Run]]:
        """Return what the journals hold of the runs, and the runs they do not.

        `chain`: the point's own journal and all later ones, the open one last.
        """
        if len(chain) - 1 <= DIRECT_MAX:
            return ask_each(chain, runs)
        pieces: list[Piece] = []
        clear: list[Run] = []
        with self._lock:
            self._follow(chain)
            for first, count in runs:
                end = first + count
                while first < end:  # ends: each turn is a window further
                    window = self._window(first // WINDOW_TRACKS, chain)
                    step = min(end, window.first + WINDOW_TRACKS) - first
                    found, left = window.pieces(chain, first, step)
                    pieces += found
                    newer, left = ask_each(chain[window.covered :], left)
                    pieces += newer
                    clear += left
                    first += step
        return pieces, _joined(clear)

    def _follow(self, chain: tuple[Journal, ...]) -> None:
        """Keep what the chain of before and this one have in common."""
        if chain is self._chain:
            return
        common = 0
        for old, new in zip(self._chain, chain, strict=False):
            if old is not new:
                break
            common += 1
        if common < len(self._chain):
            for number, window in list(self._windows.items()):
                if window.covered > common:  # a merge has replaced what it points to
                    del self._windows[number]
        self._chain = chain

    def _window(self, number: int, chain: tuple[Journal, ...]) -> Window:
        window = self._windows.get(number)
        if window is None:
            first = number * WINDOW_TRACKS
            window = Window(first, min(WINDOW_TRACKS, self._track_count - first))
            self._windows[number] = window
        self._windows.move_to_end(number)
        if len(chain) - 1 - window.covered > DIRECT_MAX:
            window.cover(chain, len(chain) - 1)
            self._let_go(number)
        return window

    def _let_go(self, newest: int) -> None:
        held = sum(window.size_bytes for window in self._windows.values())
        while held > MAP_BYTES_MAX and next(iter(self._windows)) != newest:
            _, window = self._windows.popitem(last=False)
            held -= window.size_bytes


def _joined(runs: list[Run]) -> list[Run]:
    """Join runs that touch where two windows meet."""
    joined: list[Run] = []
    for first, count in runs:
        if joined and sum(joined[-1]) == first:
            joined[-1] = (joined[-1][0], joined[-1][1] + count)
        else:
            joined.append((first, count))
    return joined
