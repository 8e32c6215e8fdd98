"""When a client that has begun something does not go on with it.

A connection may idle for ever. But a request whose header or payload has begun to
arrive holds a buffer, and a reply that the peer does not take holds memory; both
must go on. Nothing of this may cost anything per request: a connection has one
coarse check, armed while there is something to watch, that compares how far things
are with how far they were:

    self._progress = ProgressWatch(
        loop, limits.progress_seconds, limits.reply_seconds, self._look, self._stuck
    )
    ...
    self._progress.arm()      # at the end of a turn: half a request, or unsent bytes
    self._progress.stop()     # in connection_lost

    def _look(self) -> Underway:
        # None for what is not under way, and for what waits for us, not the peer:
        # a request is not arriving while a limit keeps the socket unread.
        return Underway(receiving=..., replying=...)

    def _stuck(self, reason: str) -> None: ...   # log it, abort the transport

`arm` is one comparison when armed already. A check that finds nothing under way
disarms itself, so that an idle connection has no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final

PROGRESS_BYTES_MIN: Final = 64 << 10
"""Fewer bytes than this in the time allowed are no progress: a byte now and then
would hold the memory of a 64 MiB payload for years. No disk is of use at 2 KiB/s."""
CHECKS_PER_PERIOD: Final = 4
"""Checks in the time allowed. A client that is stuck has at least that time, and
no more than a fourth on top while the loop keeps to its timers."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far something is.

    `item` counts what was completed before it: a new item is progress, as is
    `PROGRESS_BYTES_MIN` more in `done_bytes`, which never falls within one item.
    """

    item: int
    done_bytes: int


@dataclass(frozen=True, slots=True)
class Underway:
    """What a connection waits for its peer to go on with; None: nothing."""

    receiving: Position | None
    replying: Position | None

    @property
    def is_empty(self) -> bool:
        return self.receiving is None and self.replying is None


class Stall:
    """Tells one thing that goes on from one that does not. Pure.

    It counts checks, not time: after the loop itself was held up for long, the
    peer's bytes may wait unread, and that is not the peer's fault.
    """

    def __init__(self, checks_max: int) -> None:
        assert checks_max > 0, checks_max
        self._checks_max = checks_max
        self._last: Position | None = None
        self._checks = 0

    def is_stuck(self, position: Position | None) -> bool:
        """Take note of how far it is; tell whether its time is up."""
        last = self._last
        if (
            position is None
            or last is None
            or position.item != last.item
            or position.done_bytes - last.done_bytes >= PROGRESS_BYTES_MIN
        ):
            self._last, self._checks = position, 0
            return False
        self._checks += 1
        return self._checks >= self._checks_max


class ProgressWatch:
    """One connection's check, on the loop that the connection lives on.

    `stuck` is called at most once, with what to log; nothing is checked after it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        receive_seconds: float,
        reply_seconds: float,
        look: Callable[[], Underway],
        stuck: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._receive_seconds = receive_seconds
        self._reply_seconds = reply_seconds
        self._interval = min(receive_seconds, reply_seconds) / CHECKS_PER_PERIOD
        self._receiving = Stall(ceil(receive_seconds / self._interval))
        self._replying = Stall(ceil(reply_seconds / self._interval))
        self._look = look
        self._stuck = stuck
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    @property
    def is_armed(self) -> bool:
        return self._timer is not None

    def arm(self) -> None:
        """See to it that a check comes; from now on the peer is expected to act."""
        if self._timer is None and not self._stopped:
            self._check()

    def stop(self) -> None:
        """Check nothing any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        underway = self._look()
        reason = self._reason(underway)
        if reason is not None:
            self.stop()
            self._stuck(reason)
        elif not underway.is_empty:
            self._timer = self._loop.call_later(self._interval, self._check)

    def _reason(self, underway: Underway) -> str | None:
        if self._receiving.is_stuck(underway.receiving):
            return (
                f"a request that went on by less than {PROGRESS_BYTES_MIN} bytes in "
                f"{self._receive_seconds:g} seconds"
            )
        if self._replying.is_stuck(underway.replying):
            return (
                f"a reader that took less than {PROGRESS_BYTES_MIN} bytes of its "
                f"replies in {self._reply_seconds:g} seconds"
            )
        return None
