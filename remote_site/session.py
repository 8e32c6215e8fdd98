"""One session's shell: frames from its links to the store, answers back.

Appliers (`applying.py`) and a finisher (`finishing.py`) do the work of a cycle; one
task handles control messages in turn. None of them is ever cancelled: a thread would
write on after its task was gone. A session ends by telling them to stop and waiting
until they have, so that nothing of it takes effect under the next epoch (I8).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from common.errors import (
    ConnectionLostError,
    FarshoreError,
    GarbledLinkError,
    PeerRefusedError,
    ProtocolError,
    StorageError,
)
from common.ports import Clock
from common.replication.cycle_messages import CycleBegin, Hashes, Tracks
from common.replication.features import LINKS
from common.replication.link import GOODBYE_SECONDS, Link
from common.replication.messages import Message
from common.replication.session_messages import Goodbye, GoodbyeReason, goodbye
from common.replication.verify_messages import (
    Verify,
)
from remote_site.applying import Applying
from remote_site.cycle_trace import ReceivedCycle
from remote_site.exchanging import Exchanging, OnHandOver, no_hand_over
from remote_site.finishing import Finishing
from remote_site.links import SessionLinks
from remote_site.member_session import SessionMembers, WhyNot, no_volume
from remote_site.receiver import Receiver
from remote_site.session_control import ControlMessage, SessionControl
from remote_site.store import GroupStore
from remote_site.verifying import Answering

LINKS_MAX = 64


class ReceivingSession:
    """Links of one epoch, from WELCOME to the return of its last thread."""

    def __init__(
        self,
        *,
        name: str,
        peer: str,
        token: bytes,
        store: GroupStore,
        receiver: Receiver,
        features: Sequence[str],
        order: Sequence[int],
        clock: Clock,
        on_committed: Callable[[ReceivedCycle], None],
        on_hand_over: OnHandOver = no_hand_over,
        why_not: WhyNot = no_volume,
    ) -> None:
        """`order` gives the store's index of each volume, in the peer's order."""
        self.token = token
        self.receiver = receiver
        self.end_reason: str | None = None
        self.failure: FarshoreError | None = None
        self.refused: Goodbye | None = None
        """What only an operator can mend, found after the WELCOME."""
        self.closed = asyncio.Event()
        self._clock = clock
        self._on_committed = on_committed
        members = SessionMembers(receiver.epoch, order, why_not)
        self._log = structlog.get_logger().bind(
            group=name, peer=peer, epoch=receiver.epoch
        )
        self._answering = Answering(
            receiver.epoch,
            store,
            receiver.shapes,
            order,
            self._send,
            clock,
            lambda: not self._applying.idle.is_set(),
        )
        self._finishing = Finishing(
            receiver,
            store,
            self._send,
            members.whole,
            self._note_committed,
            clock,
        )
        self._applying = Applying(
            receiver, store, order, features, self._send, self._finishing.applied
        )
        self._finishing.has_more = lambda: self._applying.unapplied_count > 0
        self._control = SessionControl(
            receiver=receiver,
            store=store,
            order=order,
            applying=self._applying,
            finishing=self._finishing,
            exchanging=Exchanging(receiver, store, order, on_hand_over),
            members=members,
            send=self._send,
            end=self.end,
            refuse=self._refuse,
            clock=clock,
            log=self._log,
        )
        self._stopping = False
        self._outlives_links = LINKS in features
        self._links: SessionLinks
        self._pump: asyncio.Task[None]
        self._workers: list[asyncio.Task[None]] = []
        self._shutdown: asyncio.Task[None] | None = None

    @property
    def epoch(self) -> int:
        return self.receiver.epoch

    @property
    def is_open(self) -> bool:
        return not self._stopping

    @property
    def is_receiving(self) -> bool:
        """A cycle has begun, and is neither committed nor abandoned."""
        return self.is_open and self.receiver.cycle is not None

    @property
    def links(self) -> Sequence[Link]:
        """Those that live now."""
        return self._links.living

    @property
    def control_link(self) -> Link:
        return self._links.control_link

    def start(self, link: Link) -> None:
        """Begin to work, `link` being the one that said HELLO."""
        outlives = self._outlives_links
        self._links = SessionLinks(self.receiver, link, outlives=outlives)
        self._pump = asyncio.create_task(self._guarded(self._links.control.pump()))
        jobs = [self._control.run(), self._finishing.run(), self._answering.run()]
        jobs += self._applying.jobs()
        self._workers = [asyncio.create_task(self._guarded(job)) for job in jobs]

    async def serve(self, link: Link) -> None:
        """Receive on a link of this session; return once nothing more comes over it.

        If that ends the session it returns when that is closed.
        """
        link.epoch = self.epoch
        reader = asyncio.create_task(self._guarded(self._receive(link)))
        self._links.read(link, reader)
        if self._stopping:
            reader.cancel()
            link.abort()
        await asyncio.wait([reader])
        if self._stopping:
            await self.closed.wait()

    def end(self, reason: str, farewell: Goodbye | None = None) -> None:
        """Stop; from now on nothing received counts. The first caller's reason holds.

        `closed` is set once every link is closed and every thread has returned.
        """
        if self._stopping:
            return
        self._stopping = True
        self._applying.stop()
        self._finishing.stop()
        self._control.stop()
        self.end_reason = reason
        self.receiver.close()
        self._log.info("session_ended", reason=reason)
        self._shutdown = asyncio.create_task(self._shut(farewell))

    def _refuse(self, farewell: Goodbye) -> None:
        self.refused = farewell
        self.end(farewell.text, farewell)

    async def stop(self, farewell: Goodbye) -> None:
        """End and wait until nothing of this session runs any more."""
        self.end(farewell.text, farewell)
        await self.closed.wait()

    async def _shut(self, farewell: Goodbye | None) -> None:
        for reader in (readers := self._links.readers):
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        if farewell is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._links.control.rested()
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        # The one link that says why before the others: a peer whose session ends with
        # its first broken link acts upon that one's reason.
        last_word = self._links.last_word()
        if last_word is not None:
            await last_word.close(farewell)
        for link in self.links:
            if link is not last_word:
                link.abort()
        # Workers may wait for the peer, for work or for each other: all of these
        # end now. What they may not be torn from is the store.
        self._applying.end()
        self._finishing.wake()
        self._control.end()
        self._answering.end()
        await asyncio.gather(*self._workers)
        self.closed.set()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a part of the session; whatever it fails with ends the session."""
        try:
            await work
        except PeerRefusedError as error:
            self.end(f"the peer said goodbye: {error}")
        except ConnectionLostError as error:
            self.end(str(error))
        except ProtocolError as error:
            self.end(str(error), goodbye(GoodbyeReason.PROTOCOL, str(error)))
        except FarshoreError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - ends the session only
            self._log.exception("session_failed")
            self._fail(FarshoreError(f"internal error at the remote: {error!r}"))

    def _fail(self, error: FarshoreError) -> None:
        reason = GoodbyeReason.STORAGE_FAILED
        if isinstance(error, StorageError) and error.is_out_of_space:
            reason = GoodbyeReason.OUT_OF_SPACE
        if not self._stopping:
            self.failure = error
        self.end(str(error), goodbye(reason, str(error)))

    # -- what arrives --------------------------------------------------------------

    async def _receive(self, link: Link) -> None:
        try:
            while not self._stopping:
                message = await link.receive()
                if not await self._links.take(link, message):
                    await self._dispatch(message)
        except (ConnectionLostError, GarbledLinkError) as error:
            self._links.lost(link, error)
            self._log.warning(
                "link_died", reason=str(error), links=len(self._links.living)
            )

    async def _dispatch(self, message: Message) -> None:
        match message:
            case Tracks() | Hashes():
                if self.receiver.take(message):
                    await self._applying.take(message)
            case Verify():
                self._answering.take(message)
            case _:
                if not isinstance(message, ControlMessage):
                    raise ProtocolError(f"{type(message).__name__} is not a sender's")
                await self._control.take(message)

    async def _send(self, message: Message) -> None:
        """Answer on the control link: answers stay in order."""
        self._links.control.post(message)

    def _note_committed(self, cycle: CycleBegin, commit_seconds: float) -> None:
        began_ns, began = self._control.began
        apply_seconds = self._clock.monotonic() - began - commit_seconds
        self._on_committed(
            ReceivedCycle(cycle, began_ns, apply_seconds, commit_seconds)
        )
        self._log.info(
            "cycle_committed",
            number=cycle.cycle_number,
            commit_seconds=round(commit_seconds, 6),
            age_seconds=round((self._clock.now_ns() - cycle.cut_ns) / 1e9, 3),
        )
