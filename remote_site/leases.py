"""Who reads a volume's journals just now, so that none is deleted under a reader.

A thinning replaces the tuple of journals first and retires the old files then: they go
once everyone who may have taken the old tuple has left. Nobody waits for anybody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Retired = tuple[int, Callable[[], None]]


class Leases:
    """From any thread; a lease lasts for one read, or for as long as a file is used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generation = 0
        self._readers: dict[int, int] = {}
        self._retired: list[Retired] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep what is not retired yet; look at the journals only once it is held."""
        with self._lock:
            generation = self._generation
            self._readers[generation] = self._readers.get(generation, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._readers[generation] -= 1
                if not self._readers[generation]:
                    del self._readers[generation]
                due = self._due()
            for remove in due:
                remove()

    def retire(self, remove: Callable[[], None]) -> None:
        """Call `remove` once no lease is held that was taken before this call.

        Whoever takes one from now on must not find what is removed any more.
        """
        with self._lock:
            self._retired.append((self._generation, remove))
            self._generation += 1
            due = self._due()
        for each in due:
            each()

    def _due(self) -> list[Callable[[], None]]:
        oldest = min(self._readers, default=self._generation)
        due = [remove for generation, remove in self._retired if generation < oldest]
        self._retired = [each for each in self._retired if each[0] >= oldest]
        return due
