"""The gate of a consistency group: hold, quiesce, release.

Pure. All volumes of a group share one gate, so that closing it closes every
volume at once: a cut is one instant for all of them (I5). A write enters before
it marks a track and leaves when the thread that did its I/O has returned, not
when its connection or task is gone: a thread goes on without them.
"""

from __future__ import annotations

from collections.abc import Callable


class Gate:
    """Counts writes in flight and delays new ones while held."""

    __slots__ = ("_on_quiet", "_waiting", "held", "in_flight")

    def __init__(self) -> None:
        self.held = False
        self.in_flight = 0
        self._waiting: list[Callable[[], None]] = []
        self._on_quiet: Callable[[], None] | None = None

    def enter(self, writes: int) -> None:
        """Count writes in; the caller has seen that the gate is not held."""
        assert not self.held
        self.in_flight += writes

    def leave(self, writes: int) -> None:
        """Count writes out; the last one out of a held gate tells the cut."""
        self.in_flight -= writes
        assert self.in_flight >= 0
        if self.in_flight == 0 and self._on_quiet is not None:
            on_quiet, self._on_quiet = self._on_quiet, None
            on_quiet()

    def wait(self, resume: Callable[[], None]) -> None:
        """Call `resume` at the release; it must look at the gate again."""
        assert self.held
        self._waiting.append(resume)

    def hold(self, on_quiet: Callable[[], None]) -> None:
        """Delay new writes; call `on_quiet` when none is in flight (maybe now)."""
        assert not self.held
        self.held = True
        if self.in_flight == 0:
            on_quiet()
        else:
            self._on_quiet = on_quiet

    def release(self) -> None:
        """Let go of every waiting write, in the order they came."""
        assert self.held
        self.held = False
        self._on_quiet = None
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()
