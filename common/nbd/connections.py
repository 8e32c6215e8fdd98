"""Connections to the volumes of one event loop, from their handshake's end on.

A handshake runs on the daemon's main loop. The socket it ends with then moves to
the loop of the volume: `HandedOver` is what crosses, `HostConnections` is what
lives there. Nothing but the messages of `NbdServer` is shared between the two.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import structlog

from common.nbd.budget import MemoryBudget
from common.nbd.kept_connection import KeptConnection
from common.nbd.limits import NbdLimits
from common.nbd.liveness import Ask, ask_socket
from common.nbd.outcome import Agreed
from common.nbd.polling import Polling
from common.nbd.transmission import Transmission
from common.ports import HostVolume

UNIX_SEND_BUFFER_BYTES: Final = 256 << 10
"""Asked of the system for the replies to one host; Linux doubles it."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class HandedOver:
    """A connection whose handshake is done. Whoever holds it closes and releases."""

    connection: socket.socket
    """A connected stream socket that no transport reads any more."""
    volume: HostVolume
    agreed: Agreed
    trailing: bytes
    """What came in the same read as the handshake's end."""
    peer: str
    is_doubted: bool = False
    """Of a daemon before, which doubted that its client is there."""
    ask: Ask = ask_socket
    """How to learn whether the client is there, see `common.nbd.liveness`."""

    def drop(self) -> None:
        """Give both up, on the volume's loop, where nothing was begun with them."""
        self.connection.close()
        self.volume.release()


def release_where_it_lives(volume: HostVolume) -> None:
    """Release a volume from another loop than its own.

    A loop that is closed runs nothing of the volume any more, so that it may be
    released right here. One that hangs does it should it ever go on.
    """
    loop = volume.loop
    if loop is asyncio.get_running_loop():
        volume.release()
        return
    try:
        loop.call_soon_threadsafe(volume.release)
    except RuntimeError:
        volume.release()


class HostConnections:
    """The connections to the volumes of one loop; called on that loop only.

    A client that reconnects sends its unanswered writes again and goes on from
    there. So that no write of its old connection lands on top of newer ones, a
    connection takes no request while requests of a connection to the same export
    run that has ended, or that may have (`Transmission.give_way_to`). We cannot
    know whose client it is that comes back, so this is about all connections to
    the export; they share its loop, so all of them are here.
    """

    def __init__(
        self,
        limits: NbdLimits,
        budget: MemoryBudget,
        ended: Callable[[HandedOver], None],
    ) -> None:
        """`ended` is called once for each connection, after its volume's release.

        `budget` is shared with the connections of all other loops.
        """
        self._limits = limits
        self._budget = budget
        self._ended = ended
        # The tasks are kept here, because a loop holds on to them weakly.
        self._arriving: set[asyncio.Task[None]] = set()
        # In the order in which they began.
        self._open: dict[Transmission, HandedOver] = {}
        self._closing = False
        self._kept: Callable[[KeptConnection], None] | None = None
        self._places = itertools.count()
        self._leaving: set[HandedOver] = set()
        """Which are to end, some of them before they have arrived."""
        self._polling: Polling | None = None

    def adopt(self, handed: HandedOver) -> None:
        """Take over a connection that another loop lets go of."""
        if self._closing and self._kept is None:
            handed.drop()
            self._ended(handed)
            return
        task = asyncio.get_running_loop().create_task(self._begin(handed))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def take_up(self, kept: Sequence[HandedOver]) -> None:
        """Go on with connections of a daemon before, in the order of their places.

        Each has to know of all newer ones to the same export before its next request
        is run: they may be of the same client, who has sent it again since.
        """
        for start in [await self._arrive(handed) for handed in kept]:
            start()

    def keep(self, kept: Callable[[KeptConnection], None]) -> None:
        """As `finish`, but give away those that can go on in another process.

        TLS cannot: its keys are here. What may only be read can mean another moment
        in the next process, as a recovery point does.
        """
        self._closing = True
        self._kept = kept
        for transmission, handed in list(self._open.items()):
            self._keep(kept, transmission, handed)

    def _keep(
        self,
        kept: Callable[[KeptConnection], None],
        transmission: Transmission,
        handed: HandedOver,
    ) -> None:
        if handed.ask is not ask_socket or handed.volume.read_only:
            transmission.finish()
            return
        place = next(self._places)
        transmission.keep(lambda connection: kept(connection.at(place)))

    def finish(self) -> None:
        """Take no more requests and no more connections; answer what is in flight."""
        self._closing = True
        for transmission in list(self._open):
            transmission.finish()

    def disconnect(self, leaving: AbstractSet[HandedOver]) -> None:
        """Take no more requests of these; answer what is in flight."""
        self._leaving |= leaving
        for transmission in [t for t, h in self._open.items() if h in leaving]:
            transmission.finish()

    def drop(self, leaving: AbstractSet[HandedOver]) -> None:
        """Close the sockets of these now; what is in flight still runs to its end."""
        for transmission in [t for t, h in self._open.items() if h in leaving]:
            transmission.abort()

    def abort(self) -> None:
        """Close all sockets now; what is in flight still runs to its end."""
        self._closing = True
        self._kept = None
        for transmission in list(self._open):
            transmission.abort()

    async def _begin(self, handed: HandedOver) -> None:
        start = await self._arrive(handed)
        start()

    async def _arrive(self, handed: HandedOver) -> Callable[[], None]:
        """Put a transport around the socket and a `Transmission` behind it.

        Return what has it take its first requests, if it has not ended by then.
        """
        try:
            (
                transport,
                arrival,
            ) = await asyncio.get_running_loop().connect_accepted_socket(
                _Arrival, handed.connection
            )
        except BaseException as error:  # also when the loop ends meanwhile
            handed.drop()
            self._ended(handed)
            if not isinstance(error, OSError):
                raise
            _log.warning("nbd_connection_lost", peer=handed.peer, reason=str(error))
            return lambda: None
        return partial(self._start, self._enter(transport, handed), arrival, handed)

    def _start(
        self, transmission: Transmission, arrival: _Arrival, handed: HandedOver
    ) -> None:
        if handed in self._leaving or (self._closing and self._kept is None):
            transmission.finish()
        elif not transmission.is_ending:
            if self._kept is not None:
                self._keep(self._kept, transmission, handed)
            received = handed.trailing + arrival.received
            transmission.start(received, is_doubted=handed.is_doubted)
            if arrival.has_ended:
                transmission.finish()

    def _enter(self, transport: asyncio.Transport, handed: HandedOver) -> Transmission:
        if self._polling is None:
            self._polling = Polling(asyncio.get_running_loop().call_soon)
        transmission = Transmission(
            transport,
            handed.volume,
            handed.agreed,
            self._limits,
            self._closed,
            peer=handed.peer,
            budget=self._budget,
            polling=self._polling,
            ask=handed.ask,
        )
        # A transport asks a protocol how it wants to be fed when reading starts.
        transport.pause_reading()
        _widen(transport.get_extra_info("socket"))
        transport.set_protocol(transmission)
        for other in self._open:
            if other.export_name == transmission.export_name:
                other.give_way_to(transmission)
        self._open[transmission] = handed
        return transmission

    def _closed(self, transmission: Transmission) -> None:
        handed = self._open.pop(transmission)
        self._leaving.discard(handed)
        self._ended(handed)


def _widen(connection: socket.socket) -> None:
    """Let a Unix socket hold several long replies: else each costs two wake-ups.

    TCP sees to that by itself. The system may grant less (`net.core.wmem_max`).
    """
    if connection.family == socket.AF_UNIX:
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BUFFER_BYTES
        )


class _Arrival(asyncio.Protocol):
    """Stands in until the transmission does; keeps what is read meanwhile.

    That is one read at most: asyncio's transports stay paused from the start,
    uvloop's begin to read whatever `connection_made` has told them.
    """

    def __init__(self) -> None:
        self.received = b""
        self.has_ended = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self.received += data
        self._transport.pause_reading()

    def eof_received(self) -> bool:
        self.has_ended = True
        return True  # as a transmission would: stay open for replies
