"""Whether a connection's client was still there after a newer connection began.

The end of a TCP connection comes after all that was sent on it before. What lies
unread, in our socket, in the client's or in a lost packet, hides it: the requests
of a client that is long dead still arrive, one by one, and look like those of a
living one. So when a client attaches to an export, every other connection to it is
in doubt, and proves itself before its next request is run:

- Bytes that come in prove nothing, however new they are to us: the system of a
  dead client goes on sending what the client left.
- Bytes that go out do. Whoever closed a connection before the newer one began has
  closed it before bytes arrive that we send after that; its system answers them
  with a reset. A host that is gone acknowledges nothing at all. So what was sent
  since and is acknowledged, with no hangup seen after that, was taken by a
  connection that was still open.

NBD has no message for it that a server may send, but the next reply is owed already
and its first byte is known (`replies.start`). The client waits for the rest as for
any reply that comes in two packets.

A Unix socket needs none of this: its end is seen at once, whatever lies unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import fcntl
import os
import select
import socket
import sys
import termios
from collections.abc import Callable
from typing import Final

LOOK_SECONDS_MIN: Final = 0.001
"""Before the first look, doubled each time; a reply is acknowledged in a round trip,
or after the 40 ms for which Linux may delay that."""
LOOK_SECONDS_MAX: Final = 0.2
READ_AWAY_BYTES_MAX: Final = 8 << 20
"""More than the system holds for a socket; a client that keeps sending ends it."""


class Life(enum.Enum):
    """What is known of a client, of what was sent to it so far."""

    GONE = "gone"
    UNKNOWN = "unknown"
    PROVED = "proved"


Told = Callable[[Life], None]


Ask = Callable[[socket.socket, Told], None]
"""Asks about the client at the other end of a transport's socket: calls `Told` once,
now or later on the same loop, or never if all ends meanwhile."""


def ends_visibly(connection: socket.socket) -> bool:
    """Tell whether a hangup is seen in spite of what lies unread."""
    return connection.family == socket.AF_UNIX


def has_hung_up(connection: socket.socket) -> bool:
    """Tell whether the end has arrived, read or not.

    A transport that is not reading, because of a limit, does not tell.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def unacknowledged_bytes(connection: socket.socket) -> int:
    """Return what the other end has not acknowledged (TCP) or read (Unix)."""
    told = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(told, sys.byteorder)


def read_away(connection: socket.socket) -> None:
    """Take from the system what nobody will look at, before an orderly close.

    Closing a socket with something unread resets it: a client that said goodbye and
    waits for the end of its stream would get an error instead.
    """
    left = READ_AWAY_BYTES_MAX
    with contextlib.suppress(OSError):  # nothing there, or no connection any more
        while left > 0 and (data := os.read(connection.fileno(), 256 << 10)):
            left -= len(data)


def ask_socket(connection: socket.socket, told: Told) -> None:
    """Ask the socket itself."""
    # In this order: a reset takes what is unacknowledged away.
    is_acknowledged = unacknowledged_bytes(connection) == 0
    if has_hung_up(connection):
        told(Life.GONE)
    else:
        told(Life.PROVED if is_acknowledged else Life.UNKNOWN)


class Doubt:
    """About one connection, from a newer one's beginning to the proof.

    It costs nothing before `ask`, which an idle connection never needs. `settled`
    is called at most once, with GONE or PROVED.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[], bool],
        look: Callable[[Told], None],
        settled: Callable[[Life], None],
    ) -> None:
        """`send` sends something that can be acknowledged, unless there is nothing."""
        self.is_asking = False
        self._loop = loop
        self._send = send
        self._look = look
        self._settled = settled
        self._is_renewed = False
        self._seconds = LOOK_SECONDS_MIN
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    def renew(self) -> None:
        """Take note of one more new connection: what was sent before proves less."""
        self._is_renewed = self.is_asking

    def ask(self) -> None:
        """Look for the proof from now on."""
        if not self.is_asking:
            self.is_asking = self._send()
            self._wait(LOOK_SECONDS_MIN)

    def stop(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, seconds: float) -> None:
        if self.is_asking:
            self._seconds = seconds
            self._timer = self._loop.call_later(seconds, self._run_look)

    def _run_look(self) -> None:
        self._timer = None
        self._look(self._told)

    def _told(self, life: Life) -> None:
        if self._is_over:
            return
        if life is Life.UNKNOWN:
            self._wait(min(2 * self._seconds, LOOK_SECONDS_MAX))
        elif life is Life.PROVED and self._is_renewed:
            # For the newest of the others it is not proved yet.
            self._is_renewed = False
            self.is_asking = self._send()
            self._wait(LOOK_SECONDS_MIN)
        else:
            self.stop()
            self._settled(life)
