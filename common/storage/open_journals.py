"""Which finished journals are open: few, however many there are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol

OPEN_MAX = 64
"""Of a group: each is two descriptors, and 8 bytes for 255 entries of its index."""


class Closable(Protocol):
    """What can be opened again whenever it is asked for."""

    def let_go(self) -> bool:
        """Close its files, unless somebody is just using them; tell whether."""
        ...


class OpenJournals:
    """Closes those that were not used for longest. From any thread; may block."""

    def __init__(self, open_max: int = OPEN_MAX) -> None:
        self._open_max = open_max
        self._lock = threading.Lock()
        self._used: OrderedDict[Closable, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def used(self, journal: Closable) -> None:
        """Take note that a journal is open and was used just now."""
        oldest: Closable | None = None
        with self._lock:
            self._used[journal] = None
            self._used.move_to_end(journal)
            if len(self._used) > self._open_max:
                oldest, _ = self._used.popitem(last=False)
        if oldest is not None and not oldest.let_go():
            self.used_by_another(oldest)

    def used_by_another(self, journal: Closable) -> None:
        """Keep count of one that could not be closed; the next round closes it."""
        with self._lock:
            self._used[journal] = None

    def forget(self, journal: Closable) -> None:
        """The journal is closed for good."""
        with self._lock:
            self._used.pop(journal, None)
