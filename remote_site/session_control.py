"""The control messages of a session: each taken up in its turn, none beside another.

What they ask for is the receiver's to allow and the store's to do. They are handled
apart from the data of cycles, which goes on while one of them waits for a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from structlog.typing import FilteringBoundLogger

from common.errors import DeviceError, ProtocolError, StateMismatchError
from common.ports import Clock
from common.replication.cycle_messages import (
    Abandon,
    Committed,
    Credit,
    CurrentAsOf,
    CycleBegin,
    CycleEnd,
)
from common.replication.lineage import CycleName
from common.replication.member_messages import OfferVolume, Whole
from common.replication.messages import Message
from common.replication.role_messages import AskChanged, HandOver
from common.replication.session_messages import (
    Goodbye,
    GoodbyeReason,
    Noted,
    Resize,
    goodbye,
)
from remote_site.applying import Applying, refill_with_end
from remote_site.exchanging import Exchanging
from remote_site.finishing import Finishing
from remote_site.member_session import SessionMembers
from remote_site.receiver import Begun, Receiver
from remote_site.store import GroupStore

CONTROL_QUEUED_MAX = 64

ControlMessage = (
    CycleBegin
    | CycleEnd
    | Abandon
    | CurrentAsOf
    | Noted
    | Resize
    | AskChanged
    | HandOver
    | Whole
    | OfferVolume
)
"""What a sender says beside the data of a cycle."""


class SessionControl:
    """Of one session; it is told to stop and waited for, never cancelled."""

    def __init__(
        self,
        *,
        receiver: Receiver,
        store: GroupStore,
        order: Sequence[int],
        applying: Applying,
        finishing: Finishing,
        exchanging: Exchanging,
        members: SessionMembers,
        send: Callable[[Message], Awaitable[None]],
        end: Callable[[str, Goodbye], None],
        refuse: Callable[[Goodbye], None],
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        """`end` ends the session; `refuse` does so for what an operator has to mend."""
        self.began = 0, 0.0
        """The cycle under way: by the wall clock, in ns, and by the one nobody sets."""
        self._epoch = receiver.epoch
        self._receiver = receiver
        self._store = store
        self._order = order
        self._applying = applying
        self._finishing = finishing
        self._exchanging = exchanging
        self._members = members
        self._send = send
        self._end = end
        self._refuse = refuse
        self._clock = clock
        self._log = log
        self._is_stopping = False
        self._queue: asyncio.Queue[ControlMessage | None] = asyncio.Queue(
            CONTROL_QUEUED_MAX
        )

    async def take(self, message: ControlMessage) -> None:
        """Queue a message; waits while `CONTROL_QUEUED_MAX` are queued."""
        await self._queue.put(message)

    def stop(self) -> None:
        """Let nothing that is still queued take effect."""
        self._is_stopping = True

    def end(self) -> None:
        """Have `run` return; nothing is taken any more."""
        refill_with_end(self._queue)

    async def run(self) -> None:
        """Take up what was queued, one message after the other, until `end`."""
        while (message := await self._queue.get()) is not None:
            match message:
                case CycleBegin():
                    await self._begin(message)
                case CycleEnd():
                    self._receiver.end(message)
                    self._finishing.wake()
                case Abandon():
                    if self._receiver.abandon(message):
                        self._log.info("cycle_abandoned", cycle=message.cycle_id.hex())
                case CurrentAsOf():
                    await self._advance_current(message)
                case Noted():
                    await self._note(message)
                case Resize():
                    await self._resize(message)
                case AskChanged() | HandOver() | Whole() | OfferVolume():
                    await self._exchange(message)

    async def _begin(self, message: CycleBegin) -> None:
        self._check_sizes()
        match self._receiver.begin(message):
            case Begun.OPENED:
                # Frames of the cycle before are dropped now; those in a thread end.
                await self._applying.idle.wait()
                if self._is_stopping:
                    return
                self.began = self._clock.now_ns(), self._clock.monotonic()
                await self._store.begin_cycle(
                    CycleName(message.cycle_number, message.cycle_id)
                )
                await self._send(
                    Credit(self._epoch, message.cycle_id, self._receiver.credit_bytes)
                )
            case Begun.ALREADY_COMMITTED:
                await self._send(
                    Committed(
                        self._epoch,
                        message.cycle_number,
                        message.cycle_id,
                        self._store.points[-1].cut_ns,
                        self._store.relation_id,
                    )
                )
            case Begun.DROPPED:
                pass

    async def _advance_current(self, message: CurrentAsOf) -> None:
        if message.epoch != self._epoch or self._is_stopping:
            return
        if message.number != self._receiver.committed_number:
            raise ProtocolError(f"CURRENT_AS_OF for point {message.number}, not newest")
        await self._store.advance_current(message.number, message.time_ns)
        await self._send(message)

    async def _note(self, message: Noted) -> None:
        if message.epoch == self._epoch and not self._is_stopping:
            await self._store.note(message.cycle_id)

    async def _resize(self, message: Resize) -> None:
        """Follow a volume that has grown; its points keep the sizes they have."""
        if not self._receiver.resize(message):
            return
        await self._applying.idle.wait()  # for frames of a cycle that was abandoned
        if self._is_stopping:
            return
        index = self._order[message.volume]
        before = self._store.volumes[index]
        try:
            await self._store.grow(index, message.from_bytes, message.size_bytes)
        except (DeviceError, StateMismatchError) as error:
            self._refuse(goodbye(GoodbyeReason.SIZE_MISMATCH, str(error)))
            return
        self._receiver.resized(message.volume, message.size_bytes)
        if before.size_bytes != message.size_bytes:
            self._log.info(
                "volume_grown",
                volume=before.name,
                before_bytes=before.size_bytes,
                size_bytes=message.size_bytes,
            )
        await self._send(message)

    async def _exchange(
        self, message: AskChanged | HandOver | Whole | OfferVolume
    ) -> None:
        if message.epoch != self._epoch or self._is_stopping:
            return
        match message:
            case AskChanged():
                await self._send(await self._exchanging.tell_changes(message))
            case HandOver():
                refused = self._exchanging.hand_over(message)
                if refused is not None:
                    text = goodbye(GoodbyeReason.NOT_PERMITTED, refused)
                    self._end(refused, text)
            case Whole():
                self._members.take(message)
            case OfferVolume():
                await self._send(await self._members.answer(message))

    def _check_sizes(self) -> None:
        """A HELLO may offer more than is here; a cycle begins only once it is."""
        for volume, index in enumerate(self._order):
            mine = self._store.volumes[index].size_bytes
            if self._receiver.shapes[volume].size_bytes != mine:
                raise ProtocolError("CYCLE_BEGIN before the RESIZE of a volume")
