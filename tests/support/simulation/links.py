"""The network between the sites: connections behind the `ByteStream` port.

Bytes of one connection arrive in order, cut anywhere; connections have a delay and a
rate of their own, so that they overtake each other. A connection can be reset in the
middle of a frame; a direction can swallow everything for a while and deliver it late
or never, with neither side told; a machine that lost power says nothing at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from common.errors import ConnectionLostError
from common.ports import Buffer
from common.replication.stream import Address
from tests.support.simulation.loop import SimulatedLoop, World

if TYPE_CHECKING:
    from remote_site.listener import ReplicationListener

WRITE_HIGH_BYTES = 64 << 10
WRITE_LOW_BYTES = 16 << 10
CLOSE_SECONDS = 2.0
USER_TIMEOUT_SECONDS = 10.0
CONNECT_SECONDS = 10.0


class SimulatedStream:
    """One end of a connection. Its process is the one of `loop`."""

    def __init__(self, network: Network, loop: SimulatedLoop, name: str) -> None:
        self.peer = name
        self.loop = loop
        self.other: SimulatedStream
        self.direction = ""
        self.delay = network.delay()
        self.rate = network.rate
        self._network = network
        self._world = network.world
        self._arrived: deque[bytes] = deque()
        self._travelling: deque[bytes] = deque()
        self._held: list[bytes] = []
        self._held_since = 0.0
        self._free_at = 0.0
        self._last_arrival = 0.0
        self._ended = False
        self._error: str | None = None
        self._is_closed = False
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._will_wake = False
        self.will_flip = False

    # -- the port ----------------------------------------------------------------------

    async def read(self, limit_bytes: int) -> bytes:
        while not self._arrived:
            if self._error is not None:
                raise ConnectionLostError(f"{self.peer}: {self._error}")
            if self._ended:
                return b""
            assert self._reader is None, "one reader at a time"
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = self._arrived.popleft()
        size = min(limit_bytes, len(data))
        if self._world.rng.random() < 0.1:
            size = self._world.rng.randrange(1, size + 1)
        if size < len(data):
            self._arrived.appendleft(data[size:])
        return data[:size]

    async def write(self, buffers: Sequence[Buffer]) -> None:
        if self._is_closed:
            raise ConnectionLostError(f"{self.peer}: {self._error or 'closed'}")
        self._post(b"".join(buffers))
        while self._is_slow() and not self._is_closed:
            waiter = asyncio.get_running_loop().create_future()
            self._writers.append(waiter)
            if not self._will_wake:
                self._will_wake = True
                rest = self._free_at - WRITE_LOW_BYTES / self.rate
                self._world.at(max(rest, self._world.now + 0.01), self._look_again)
            await waiter
        if self._error is not None:
            raise ConnectionLostError(f"{self.peer}: {self._error}")

    def unacknowledged_bytes(self) -> int:
        waiting = max(self._free_at - self._world.now, 0.0) * self.rate
        return sum(map(len, self._held)) + int(waiting)

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if not self.is_swallowed:
            self._world.at(self._last_arrival + self.delay, self.other._end)
        left = self._free_at - self._world.now
        if left > 0 or self._held:
            await asyncio.sleep(CLOSE_SECONDS if self._held else min(left, 2.0))
        self._lose(None)

    def abort(self) -> None:
        if self.loop.is_dead or (self._is_closed and self._ended):
            return
        self._travelling.clear()
        if not self.is_swallowed:
            self._world.after(self.delay, self.other.lose, "reset by peer")
        self._lose(None)

    # -- the way -----------------------------------------------------------------------

    @property
    def is_swallowed(self) -> bool:
        return self.direction in self._network.swallowed

    def _is_slow(self) -> bool:
        if self._held:
            return sum(map(len, self._held)) > WRITE_HIGH_BYTES
        return (self._free_at - self._world.now) * self.rate > WRITE_HIGH_BYTES

    def _post(self, data: bytes) -> None:
        world = self._world
        self._free_at = max(self._free_at, world.now) + len(data) / self.rate
        jitter = 1.0 + world.rng.random()
        arrival = max(self._last_arrival, self._free_at + self.delay * jitter)
        self._last_arrival = arrival
        self._travelling.append(data)
        world.at(arrival, self._arrive)

    def _arrive(self) -> None:
        if not self._travelling:
            return  # the connection was reset meanwhile
        data = self._travelling.popleft()
        if self.is_swallowed or self._held:
            if not self._held:
                self._held_since = self._world.now
                self._world.after(USER_TIMEOUT_SECONDS, self._give_up, self._held_since)
            self._held.append(data)
            return
        if self.will_flip:
            self.will_flip = False
            data = _flipped(data, self._world.rng.randrange(8 * len(data)))
        self.other._take(data)

    def _give_up(self, since: float) -> None:
        """TCP_USER_TIMEOUT: what was sent is not acknowledged for too long."""
        if self._held and self._held_since == since and self.is_swallowed:
            self.lose("timed out")

    def let_through(self) -> None:
        """The direction works again: what was held arrives late, or never."""
        held, self._held = self._held, []
        if self._error is not None and self._world.rng.random() < 0.5:
            held = []
        for data in held:
            self.other._take(data)
        self._wake_writers()

    def _take(self, data: bytes) -> None:
        if not data:
            return  # of a frame that broke off nothing arrived
        if self.loop.is_dead:
            if self._network.answers(self.loop):
                self.other.lose("reset by peer")
            return
        if not self._ended and self._error is None:
            self._arrived.append(data)
            self._wake_reader()

    def break_off(self) -> None:
        """Reset: of what is on its way a part may still arrive."""
        if self._travelling and self._world.rng.random() < 0.7:
            data = self._travelling.popleft()
            self.other._take(data[: self._world.rng.randrange(len(data) + 1)])
        self._travelling.clear()

    def lose(self, why: str) -> None:
        """The connection is broken, as this side notices now."""
        if not (self._is_closed and self._ended):
            self._lose(why)

    def _lose(self, why: str | None) -> None:
        self._is_closed = self._ended = True
        self._error = self._error or why
        self._network.streams.pop(self, None)
        self._wake_reader()
        self._wake_writers()

    def _end(self) -> None:
        self._ended = True
        self._is_closed = True
        self._network.streams.pop(self, None)
        self._wake_reader()
        self._wake_writers()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _look_again(self) -> None:
        self._will_wake = False
        self._wake_writers()

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, []
        for waiter in writers:
            if not waiter.done():
                waiter.set_result(None)


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


class Network:
    """All connections, and what is wrong with them now."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.streams: dict[SimulatedStream, None] = {}
        self.swallowed: set[str] = set()
        self.is_down = False
        self.rate = 50e6
        self.delay_seconds = 0.001
        self.listeners: dict[str, tuple[ReplicationListener, SimulatedLoop]] = {}
        """By the name of the site; its second address has a 2 behind it."""
        self.is_up: Callable[[SimulatedLoop], bool] = lambda _: False

    def delay(self) -> float:
        return self.delay_seconds * (0.5 + self.world.rng.random())

    def answers(self, loop: SimulatedLoop) -> bool:
        """Tell whether the machine of a dead process is up, and so resets."""
        return not self.is_down and self.is_up(loop)

    async def connect(self, loop: SimulatedLoop, address: str) -> SimulatedStream:
        """Connect to whoever listens at the site that the address names."""
        await asyncio.sleep(2 * self.delay())
        if self.is_down or self.swallowed:
            await asyncio.sleep(CONNECT_SECONDS * self.world.rng.random())
            raise ConnectionLostError(f"{address}: no answer")
        host = Address.parse(address).host.rstrip("2")
        listener, listening = self.listeners.get(host, (None, None))
        if listener is None or listening is None or listening.is_dead:
            raise ConnectionLostError(f"{address}: connection refused")
        mine = SimulatedStream(self, loop, address)
        theirs = SimulatedStream(self, listening, f"{loop.site}:1")
        mine.other, theirs.other = theirs, mine
        directions = ("out", "back") if host == "dr" else ("back", "out")
        mine.direction, theirs.direction = directions
        self.streams[mine] = self.streams[theirs] = None
        accepted: Any = theirs
        listening.call_soon(listener._accept, accepted)
        self.world.note(f"connected {address}")
        return mine

    def reset(self) -> None:
        """Break every connection, some in the middle of a frame."""
        for stream in list(self.streams):
            stream.break_off()
        for stream in list(self.streams):
            self.world.after(stream.delay, stream.lose, "reset by the network")

    def swallow(self, direction: str) -> None:
        self.swallowed.add(direction)

    def heal(self) -> None:
        self.is_down = False
        self.swallowed.clear()
        for stream in list(self.streams):
            stream.let_through()

    def forget(self, loop: SimulatedLoop) -> None:
        """Nothing more arrives of what a dead process has sent."""
        for stream in [s.other for s in self.streams if s.other.loop is loop]:
            stream._travelling.clear()
            stream._held.clear()
            stream.other._arrived.clear()
            stream.other.lose("reset by the network")

    def died(self, loop: SimulatedLoop, *, silently: bool) -> None:
        """A process is gone; its kernel tells the peers unless it went with it."""
        for stream in [s for s in self.streams if s.loop is loop]:
            self.streams.pop(stream)
            if silently or stream.is_swallowed or self.is_down:
                stream._travelling.clear()
            elif self.world.rng.random() < 0.5:
                stream.break_off()
                self.world.after(stream.delay, stream.other.lose, "reset by peer")
            else:
                at = max(stream._last_arrival, self.world.now) + stream.delay
                self.world.at(at, stream.other._end)
