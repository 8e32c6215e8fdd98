"""The points that can be opened now, and who keeps them.

Pins are connections and jobs: they end with the process. From any thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from remote_site.store_state import Point


class ListedPoints:
    """`points`, oldest first, is replaced as a whole."""

    def __init__(self) -> None:
        self.points: tuple[Point, ...] = ()
        self._lock = threading.Lock()
        self._pins: Counter[int] = Counter()
        self._ended: set[int] = set()
        """Pinned still, but gone: their readers get errors."""
        self._leaving: frozenset[int] = frozenset()
        """About to be merged away: nobody may begin to read them."""

    def replace(self, points: Sequence[Point]) -> None:
        with self._lock:
            self.points = tuple(points)

    def pin(self, number: int | None) -> int | None:
        """Keep a point (the newest when None) until `unpin`; None if not there."""
        with self._lock:
            numbers = [point.number for point in self.points]
            if number is None and numbers:
                number = numbers[-1]
            if number not in numbers or number in self._leaving:
                return None
            assert number is not None
            self._pins[number] += 1
            return number

    def unpin(self, number: int) -> None:
        """Let go of a point; the next commit or thinning frees it."""
        with self._lock:
            self._pins[number] -= 1
            assert self._pins[number] >= 0
            if not self._pins[number]:
                del self._pins[number]
                self._ended.discard(number)

    def is_pinned(self, number: int) -> bool:
        with self._lock:
            return number in self._pins and number not in self._ended

    def end(self, numbers: Sequence[int]) -> None:
        """Have pins of these points keep nothing any more."""
        with self._lock:
            self._ended.update(number for number in numbers if number in self._pins)

    def free(self, oldest: int) -> int:
        """Unlist points older than `oldest` but for what a pin needs; return the
        oldest that stays."""
        with self._lock:
            pinned = [number for number in self._pins if number not in self._ended]
            oldest = min([oldest, *pinned])
            self.points = tuple(p for p in self.points if p.number >= oldest)
            return oldest

    @contextmanager
    def leaving(self, numbers: frozenset[int]) -> Iterator[bool]:
        """Let nobody begin to read these points; False if somebody does already."""
        with self._lock:
            is_free = not any(number in self._pins for number in numbers)
            if is_free:
                self._leaving = numbers
        try:
            yield is_free
        finally:
            with self._lock:
                self._leaving = frozenset()
