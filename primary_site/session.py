"""The sending end of a replication session: what is said over it, and answered.

Its links are `SessionLinks`: control messages keep their order, TRACKS and HASHES go
over whichever link is least busy. The session ends with its last link, or with
anything that is wrong with what arrives; what was not acknowledged then is sent again
in the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Protocol, TypeVar

from common.errors import ConnectionLostError, ProtocolError
from common.replication.cycle_messages import (
    Committed,
    Credit,
    CurrentAsOf,
    Hashes,
    NeedFull,
    Progress,
    Tracks,
)
from common.replication.features import GROW
from common.replication.link import GOODBYE_SECONDS, Link
from common.replication.link_messages import (
    ControlReceived,
    LinksClosed,
)
from common.replication.member_messages import OfferVolume, VolumeAnswered
from common.replication.messages import Message
from common.replication.role_messages import AskChanged, Changed
from common.replication.session_messages import (
    Goodbye,
    Hello,
    Resize,
    VolumeOffer,
    Welcome,
)
from common.replication.verify_messages import (
    Verified,
)
from primary_site.paced import Pacing
from primary_site.session_links import SessionLinks

T = TypeVar("T")

OFFER_SECONDS = 10.0
"""The remote reads its config and looks at a device."""


class DrainEvents(Protocol):
    """What a drain listens to."""

    def on_credit(self, message: Credit) -> None: ...

    def on_progress(self, message: Progress) -> None: ...

    def on_need_full(self, message: NeedFull) -> None: ...

    def on_frames_lost(
        self, cycle_id: bytes, open_cycle_id: bytes | None, sequences: Sequence[int]
    ) -> None: ...


class VerifyEvents(Protocol):
    """What a verify listens to."""

    def on_verified(self, message: Verified) -> None: ...


class SendingSession:
    """Links of one epoch, after WELCOME."""

    def __init__(
        self, welcome: Welcome, links: SessionLinks, pacing: Pacing, hello: Hello
    ) -> None:
        self.welcome = welcome
        self.sizes = [offer.size_bytes for offer in hello.volumes]
        """Bytes of each volume, in wire order, as the remote knows them by now."""
        self.volume_ids = [offer.volume_id for offer in hello.volumes]
        self.lacking: set[int] = set()
        """Indexes of volumes that no point of the remote has: see `exchange.py`."""
        self.epoch = welcome.epoch
        self.features = welcome.features
        self.drain: DrainEvents | None = None
        self.verifier: VerifyEvents | None = None
        self.ended = False
        """Nothing is received any more: whoever waits for an answer waits in vain."""
        self.pacing = pacing
        self._links = links
        self._window_of = b""
        self._committed: asyncio.Future[Committed] | None = None
        self._current: asyncio.Future[CurrentAsOf] | None = None
        self._resized: dict[int, asyncio.Future[Resize]] = {}
        self._changed: asyncio.Future[Changed] | None = None
        self._offered: asyncio.Future[VolumeAnswered] | None = None

    @property
    def links(self) -> list[Link]:
        """Those that live now."""
        return self._links.living

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes sent that the remote's machine has not got yet."""
        return sum(link.unacknowledged_bytes() for link in self.links)

    @property
    def round_trip_seconds(self) -> float:
        """As the heartbeats tell; 0 before the first was answered."""
        return max((link.round_trip_seconds or 0.0 for link in self.links), default=0.0)

    @property
    def control_link(self) -> Link:
        return self._links.control_link

    @property
    def missing(self) -> list[str]:
        """Addresses of links that are being made again."""
        return self._links.missing

    @property
    def link_count(self) -> int:
        """How many links there are when none is missing."""
        return len(self._links.addresses)

    @property
    def sent_bytes(self) -> int:
        living = sum(link.sent_bytes for link in self._links.living)
        return living + self._links.sent_before_bytes

    def frame_bytes(self, most: int) -> int:
        """Return how many bytes a frame that is made now should have."""
        return self.pacing.frame_bytes(most)

    async def send(self, message: Message) -> None:
        """Send a control message, in order."""
        self._links.control.post(message)

    async def send_bulk(self, message: Tracks | Hashes) -> int:
        """Send over the least busy link; return the frame's body checksum."""
        return await self._links.send_bulk(message)

    async def committed(self) -> Committed:
        """Wait for the answer to CYCLE_END."""
        self._committed = asyncio.get_running_loop().create_future()
        return await self._committed

    async def advance_current(self, number: int, time_ns: int) -> None:
        """Have the remote record, durably, that point `number` is current still."""
        self._current = asyncio.get_running_loop().create_future()
        await self.send(CurrentAsOf(self.epoch, number, time_ns))
        await self._current

    async def resize(self, grown: Sequence[tuple[int, int, int]]) -> None:
        """Have the remote make volumes as large as they are here, durably.

        Of each: its index, the bytes that it began with, and those it has. All are told
        before the first answer is waited for.
        """
        if grown and GROW not in self.features:
            raise ConnectionLostError("the remote's release can't grow a volume")
        loop = asyncio.get_running_loop()
        self._resized = {volume: loop.create_future() for volume, _, _ in grown}
        for volume, from_bytes, size_bytes in grown:
            await self.send(Resize(self.epoch, volume, from_bytes, size_bytes))
        for volume, _, size_bytes in grown:
            answer = await self._resized[volume]
            if answer.size_bytes != size_bytes:
                raise ProtocolError("RESIZE answered for another size")
            self.sizes[volume] = size_bytes

    async def ask_changed(self, volume: int, first: int) -> Changed:
        """Ask what the remote holds otherwise than its point, from a track on."""
        self._changed = asyncio.get_running_loop().create_future()
        await self.send(AskChanged(self.epoch, volume, first))
        return await self._changed

    async def offer_volume(self, offer: VolumeOffer) -> str:
        """Return why the remote would not take a volume; empty: it would.

        One at a time. Raises `TimeoutError` if it does not answer.
        """
        self._offered = asyncio.get_running_loop().create_future()
        await self.send(OfferVolume(self.epoch, *astuple(offer)))
        async with asyncio.timeout(OFFER_SECONDS):
            return (await self._offered).text

    async def receive(self) -> None:
        """Receive until the session ends: then raise why."""
        try:
            await self._links.serve(self._handle)
        finally:
            self.ended = True

    def _handle(self, message: Message) -> None:
        match message:
            case ControlReceived():
                self._links.control.acknowledged(message.count)
                return
            case LinksClosed():
                self._links_closed(message)
                return
        self._links.control.note_received()
        match message:
            case Credit() | Progress() | NeedFull():
                self._tell_drain(message)
            case Verified():
                if self.verifier is not None:
                    self.verifier.on_verified(message)
            case _:
                self._answered(message)

    def _answered(self, message: Message) -> None:
        """Settle what was asked, in this session."""
        match message:
            case Committed():
                _settle(self._committed, message)
            case CurrentAsOf():
                _settle(self._current, message)
            case Resize():
                _settle(self._resized.get(message.volume), message)
            case Changed():
                _settle(self._changed, message)
            case VolumeAnswered():
                _settle(self._offered, message)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not the remote's")

    def _links_closed(self, answer: LinksClosed) -> None:
        cycle_id, lost = self._links.closed(answer)
        if lost and self.drain is not None:
            self.drain.on_frames_lost(cycle_id, answer.cycle_id, lost)

    def _tell_drain(self, message: Credit | Progress | NeedFull) -> None:
        if self.drain is None:
            return
        match message:
            case Credit():
                self.drain.on_credit(self._within_window(message))
            case Progress():
                self.drain.on_progress(message)  # which checks the sequences
                self._links.durable(message.cycle_id, message.sequences)
            case NeedFull():
                self.drain.on_need_full(message)

    def _within_window(self, message: Credit) -> Credit:
        """Hold back of a cycle's first credit what the link's profile leaves unused."""
        if message.cycle_id == self._window_of:
            return message
        self._window_of = message.cycle_id
        unused = max(0, self.welcome.credit_bytes - self.pacing.window_bytes)
        return replace(message, credit_bytes=max(0, message.credit_bytes - unused))

    async def close(self, goodbye: Goodbye | None = None) -> None:
        """End the session in order; `receive` has ended."""
        living = list(self._links.living)
        pump = asyncio.create_task(self._links.control.pump())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._links.control.rested()
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        for link in living:
            await link.close(goodbye if link is living[0] else None)

    def abort(self) -> None:
        for link in self._links.living:
            link.abort()


def _settle(asked: asyncio.Future[T] | None, answer: T) -> None:
    if asked is not None and not asked.done():
        asked.set_result(answer)
