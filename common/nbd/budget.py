"""How many bytes all NBD connections of a daemon may have in flight together.

A connection has limits of its own; times a hundred connections they would be more
than a machine has. So each connection takes bytes here before it lets a volume run
READs and WRITEs, or allocates for a payload, and gives them back when the memory
is free again: for a WRITE when it completes, for a READ when the transport has
taken the reply. Connections live on several event loops in several threads:

    budget = MemoryBudget(limits.daemon_bytes_in_flight_max, limits.connections_max)

    share = budget.share(loop, self._schedule_turn)      # once per connection
    ...
    if not share.take(stream.batch_bytes):               # before `volume.submit`
        self._held_batch = batch                         # and stop reading
    ...
    if self._held_batch and not share.is_waiting:        # in the turn it resumed
        batch, self._held_batch = self._held_batch, None # granted: take no more
        self._volume.submit(batch, complete)
    ...
    share.give_back(length)                              # as requests complete
    ...
    share.close()                                        # when nothing is in flight

Every connection has a small part of the whole set aside, so that one that asks for
little never waits for those that ask for much and do not read their answers, and
never touches the lock. All else comes out of one pool, first come, first served:
whoever waits is passed by nobody who needs the pool, however little they ask for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

OWN_BYTES_MAX: Final = 256 << 10
"""Set aside for each connection: a queue of 64 blocks of 4 KiB fits."""
OWN_PART_MAX: Final = 4
"""At most one fourth of the whole is set aside, however many may connect."""


class Ticket:
    """One request for bytes that could not be granted at once."""

    __slots__ = ("is_settled", "length_bytes")

    def __init__(self, length_bytes: int) -> None:
        self.length_bytes = length_bytes
        self.is_settled = False


class Pool:
    """Who gets the bytes that nobody has for his own. Pure, and not thread-safe.

    More than there is at all is granted too, alone: when nothing else is out. So
    `held_bytes` exceeds `bytes_max` by nothing but one such grant.
    """

    def __init__(self, bytes_max: int) -> None:
        assert bytes_max > 0, bytes_max
        self.bytes_max = bytes_max
        self.held_bytes = 0
        # Bounded by the number of connections: each waits for one ticket at most.
        self._waiting: deque[Ticket] = deque()

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    def take(self, length_bytes: int) -> Ticket | None:
        """Grant now and return None, or return the ticket that now waits."""
        assert length_bytes > 0, length_bytes
        if not self._waiting and self._fits(length_bytes):
            self.held_bytes += length_bytes
            return None
        ticket = Ticket(length_bytes)
        self._waiting.append(ticket)
        return ticket

    def give_back(self, length_bytes: int) -> list[Ticket]:
        """Return the tickets that are granted by this, in their order."""
        assert 0 < length_bytes <= self.held_bytes, (length_bytes, self.held_bytes)
        self.held_bytes -= length_bytes
        return self._grant()

    def withdraw(self, ticket: Ticket) -> list[Ticket]:
        """Forget one that waits; return those that it alone had held up."""
        self._waiting.remove(ticket)
        return self._grant()

    def _fits(self, length_bytes: int) -> bool:
        return self.held_bytes == 0 or self.held_bytes + length_bytes <= self.bytes_max

    def _grant(self) -> list[Ticket]:
        granted = []
        while self._waiting and self._fits(self._waiting[0].length_bytes):
            ticket = self._waiting.popleft()
            self.held_bytes += ticket.length_bytes
            granted.append(ticket)
        return granted


class MemoryBudget:
    """The shares of all connections; `share` may be called in any thread.

    `bytes_max` bounds what is taken over all shares, own parts included, but for a
    single request longer than the pool, which is granted when the pool is unused.
    """

    def __init__(self, bytes_max: int, connections_max: int) -> None:
        assert bytes_max > 0, bytes_max
        assert connections_max > 0, connections_max
        self.own_bytes_max = min(
            OWN_BYTES_MAX, bytes_max // OWN_PART_MAX // connections_max
        )
        """What each connection has to itself; more connections than
        `connections_max` would each add this much to the bound."""
        self._pool = Pool(bytes_max - self.own_bytes_max * connections_max)
        self._lock = threading.Lock()
        self._waiters: dict[Ticket, BudgetShare] = {}

    @property
    def pool_held_bytes(self) -> int:
        """Bytes of the pool that are out; for status and tests."""
        return self._pool.held_bytes

    @property
    def waiting_count(self) -> int:
        """Connections that wait for bytes; for status and tests."""
        return self._pool.waiting_count

    def share(
        self, loop: asyncio.AbstractEventLoop, resumed: Callable[[], None]
    ) -> BudgetShare:
        """Open the share of one connection that lives on `loop`.

        `resumed` is called on `loop` each time that bytes waited for are granted.
        """
        return BudgetShare(self, self.own_bytes_max, loop, resumed)

    # What shares call; any thread

    def take(self, length_bytes: int, share: BudgetShare) -> Ticket | None:
        with self._lock:
            ticket = self._pool.take(length_bytes)
            if ticket is not None:
                self._waiters[ticket] = share
            return ticket

    def give_back(self, length_bytes: int) -> None:
        with self._lock:
            granted = self._granted(self._pool.give_back(length_bytes))
        self._tell(granted)

    def withdraw(self, ticket: Ticket) -> bool:
        """Tell whether the ticket still waited; it waits no more."""
        with self._lock:
            if self._waiters.pop(ticket, None) is None:
                return False
            granted = self._granted(self._pool.withdraw(ticket))
        self._tell(granted)
        return True

    def settle(self, ticket: Ticket) -> bool:
        """Tell whether the caller is the first to see to a granted ticket."""
        with self._lock:
            first = not ticket.is_settled
            ticket.is_settled = True
            return first

    def _granted(self, tickets: list[Ticket]) -> list[tuple[BudgetShare, Ticket]]:
        return [(self._waiters.pop(ticket), ticket) for ticket in tickets]

    def _tell(self, granted: list[tuple[BudgetShare, Ticket]]) -> None:
        # Outside the lock: a loop's own lock is taken in here.
        for share, ticket in granted:
            try:
                share.loop.call_soon_threadsafe(share.granted, ticket)
            except RuntimeError:
                # Its loop is closed: nobody is left who could give this back.
                if self.settle(ticket):
                    self.give_back(ticket.length_bytes)


class BudgetShare:
    """What one connection holds; everything is called on the connection's loop."""

    def __init__(
        self,
        budget: MemoryBudget,
        own_bytes_max: int,
        loop: asyncio.AbstractEventLoop,
        resumed: Callable[[], None],
    ) -> None:
        self.loop = loop
        self._budget = budget
        self._own_bytes_free = own_bytes_max
        self._pool_bytes = 0
        self._resumed = resumed
        self._ticket: Ticket | None = None

    @property
    def is_waiting(self) -> bool:
        """Tell whether bytes were asked for and are not granted yet."""
        return self._ticket is not None

    def take(self, length_bytes: int) -> bool:
        """Take bytes now, or be the holder of them when `resumed` is called.

        Not to be called while waiting: a connection takes one thing at a time.
        """
        assert self._ticket is None, "a share waits for one thing at a time"
        if length_bytes <= self._own_bytes_free:
            self._own_bytes_free -= length_bytes
            return True
        self._ticket = self._budget.take(length_bytes, self)
        if self._ticket is not None:
            return False
        self._pool_bytes += length_bytes
        return True

    def give_back(self, length_bytes: int) -> None:
        """Return what was taken, in the same pieces or in others.

        What came out of the pool goes back first: others wait for that.
        """
        if self._pool_bytes:
            pooled = min(length_bytes, self._pool_bytes)
            self._pool_bytes -= pooled
            length_bytes -= pooled
            self._budget.give_back(pooled)
        self._own_bytes_free += length_bytes
        assert self._own_bytes_free <= self._budget.own_bytes_max, "given back twice"
        if self._ticket is not None:
            self._try_own(self._ticket)

    def stop_waiting(self) -> None:
        """Leave the queue, though what is held may stay so for long yet.

        The client is gone: behind a device that hangs, its place would go on
        keeping others waiting, and then hold what nobody uses.
        """
        ticket, self._ticket = self._ticket, None
        if ticket is None or self._budget.withdraw(ticket):
            return
        # Another thread has granted it and is about to tell this loop.
        if self._budget.settle(ticket):
            self._budget.give_back(ticket.length_bytes)

    def close(self) -> None:
        """Give back all that is still held, and wait for nothing any more."""
        self.stop_waiting()
        pooled, self._pool_bytes = self._pool_bytes, 0
        if pooled:
            self._budget.give_back(pooled)

    def granted(self, ticket: Ticket) -> None:
        """Take note that another thread granted what this share waits for."""
        if ticket is self._ticket:
            self._ticket = None
            self._pool_bytes += ticket.length_bytes
            self._resumed()

    def _try_own(self, ticket: Ticket) -> None:
        """Stop waiting for the pool if the own part has become large enough."""
        length_bytes = ticket.length_bytes
        if length_bytes <= self._own_bytes_free and self._budget.withdraw(ticket):
            self._ticket = None
            self._own_bytes_free -= length_bytes
            self._resumed()
