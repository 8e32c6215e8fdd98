"""Looking for the next request for a moment before the thread sleeps.

A host with one request in flight sends the next as soon as it has its reply. If our
thread and its core have gone to sleep by then, waking them takes longer than the
request. So after a reply the loop looks again at once for a while, as virtual disks
of QEMU do, and stops doing so where it does not help.

It costs a part of a core while such a host is at work and nothing otherwise: a look
that finds nothing is followed by ever more turns without one.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

POLL_SECONDS: Final = 50e-6
"""About what waking costs: whoever polls longer would have slept better."""

SKIPPED_TURNS_MIN: Final = 16
SKIPPED_TURNS_MAX: Final = 1024
"""Turns without a look after one in vain; doubled each time."""


class Polling:
    """That of one loop, for all connections on it."""

    __slots__ = ("_call_soon", "_is_due", "_is_looking", "_skip", "_skipped", "_until")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """`call_soon` is that of the loop."""
        self._call_soon = call_soon
        self._is_looking = False
        # Whether a turn of the loop is asked for: one at a time.
        self._is_due = False
        self._until = 0.0
        # Turns to go without a look, and how many they were last time.
        self._skip = 0
        self._skipped = 0

    def answered(self) -> None:
        """All that was asked on a connection is answered."""
        if self._skip:
            self._skip -= 1
            return
        self._until = monotonic() + POLL_SECONDS
        self._is_looking = True
        self._ask_for_turn()

    def arrived(self) -> None:
        """A host has sent something."""
        if self._is_looking:
            self._skipped = 0
            # Until it is answered there is something to do anyhow.
            self._is_looking = False

    def _ask_for_turn(self) -> None:
        """Have the loop look at its sockets, without sleeping, and come back."""
        if not self._is_due:
            self._is_due = True
            self._call_soon(self._looked)

    def _looked(self) -> None:
        self._is_due = False
        if not self._is_looking:
            return
        if monotonic() < self._until:
            self._ask_for_turn()
            return
        self._is_looking = False
        self._skipped = min(
            max(2 * self._skipped, SKIPPED_TURNS_MIN), SKIPPED_TURNS_MAX
        )
        self._skip = self._skipped
