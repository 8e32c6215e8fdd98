"""One session's shell: frames from its links to the store, answers back.

One applier a volume keeps the order of its frames; one finisher flushes, reports
progress and commits; one task handles control messages in turn. None of them is
ever cancelled: a thread would write on after its task was gone. A session ends by
telling them to stop and waiting until they have, so that nothing of it takes
effect under the next epoch (I8).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import structlog

from common.errors import (
    ConnectionLostError,
    DeviceError,
    FarshoreError,
    GarbledLinkError,
    PeerRefusedError,
    ProtocolError,
    StateMismatchError,
    StorageError,
)
from common.ports import Clock, Threads
from common.replication.features import DELTA, LINKS, REFERENCE
from common.replication.lineage import CycleName
from common.replication.link import GOODBYE_SECONDS, Link
from common.replication.member_messages import OfferVolume, Whole
from common.replication.messages import (
    RUNS_MAX,
    Abandon,
    AskChanged,
    Committed,
    Credit,
    CurrentAsOf,
    CycleBegin,
    CycleEnd,
    Goodbye,
    GoodbyeReason,
    HandOver,
    Hashes,
    Message,
    NeedFull,
    Noted,
    Progress,
    Resize,
    Tracks,
    Verify,
    goodbye,
)
from common.replication.referenced import Held
from remote_site.bases import held_pieces
from remote_site.batches import decode_batch
from remote_site.exchanging import Exchanging, OnHandOver, no_hand_over
from remote_site.links import SessionLinks
from remote_site.member_session import SessionMembers, WhyNot, no_volume
from remote_site.receiver import Begun, Receiver, credit_cost
from remote_site.store import GroupStore
from remote_site.verifying import Answering

FRAMES_QUEUED_MAX = 1024
"""Frames of one volume waiting to be applied. Credit bounds their bytes; this
bounds what tiny frames cost beside them: a link that fills it is not read."""

CONTROL_QUEUED_MAX = 64
BATCH_BYTES_MAX = 8 << 20
"""Raw bytes handed to one thread hop."""

UNFLUSHED_BYTES_MAX = 4 << 20
FLUSH_SECONDS = 0.5
"""A flush begins at the latest after so much applied, or so long. Credit comes back
with it: a quarter of the window, so that the sender is not out of it meanwhile."""

LINKS_MAX = 64

_CONTROL = (
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
        threads: Threads,
        clock: Clock,
        on_committed: Callable[[float], None],
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
        self._store = store
        self._features = frozenset(features)
        self._order = order
        self._threads = threads
        self._clock = clock
        self._on_committed = on_committed
        self._exchanging = Exchanging(receiver, store, order, on_hand_over)
        self._members = SessionMembers(receiver.epoch, order, why_not)
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
            lambda: not self._idle.is_set(),
        )
        self._queues: list[asyncio.Queue[Tracks | Hashes | None]] = [
            asyncio.Queue(FRAMES_QUEUED_MAX) for _ in order
        ]
        self._control: asyncio.Queue[_CONTROL | None] = asyncio.Queue(
            CONTROL_QUEUED_MAX
        )
        self._unapplied_count = 0
        self._unflushed_bytes = 0
        self._unflushed_since = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._wake = asyncio.Event()
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
        jobs: list[Coroutine[Any, Any, None]] = [self._handle_control(), self._finish()]
        jobs += [self._apply(index) for index in range(len(self._queues))]
        jobs.append(self._answering.run())
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
        self.end_reason = reason
        self.receiver.close()
        self._log.info("session_ended", reason=reason)
        self._shutdown = asyncio.create_task(self._shut(farewell))

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
        self._idle.set()
        self._wake.set()
        for queue in self._queues:
            _refill_with_end(queue)
        _refill_with_end(self._control)
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
                    self._unapplied_count += 1
                    self._idle.clear()
                    await self._queues[message.volume].put(message)
            case (
                CycleBegin()
                | CycleEnd()
                | Abandon()
                | CurrentAsOf()
                | Noted()
                | Resize()
                | AskChanged()
                | HandOver()
                | Whole()
                | OfferVolume()
            ):
                await self._control.put(message)
            case Verify():
                self._answering.take(message)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not a sender's")

    async def _send(self, message: Message) -> None:
        """Answer on the control link: answers stay in order."""
        self._links.control.post(message)

    async def _handle_control(self) -> None:
        while (message := await self._control.get()) is not None:
            match message:
                case CycleBegin():
                    await self._begin(message)
                case CycleEnd():
                    self.receiver.end(message)
                    self._wake.set()
                case Abandon():
                    if self.receiver.abandon(message):
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
        match self.receiver.begin(message):
            case Begun.OPENED:
                # Frames of the cycle before are dropped now; those in a thread end.
                await self._idle.wait()
                if self._stopping:
                    return
                await self._store.begin_cycle(
                    CycleName(message.cycle_number, message.cycle_id)
                )
                await self._send(
                    Credit(self.epoch, message.cycle_id, self.receiver.credit_bytes)
                )
            case Begun.ALREADY_COMMITTED:
                await self._send(
                    Committed(
                        self.epoch,
                        message.cycle_number,
                        message.cycle_id,
                        self._store.points[-1].cut_ns,
                        self._store.relation_id,
                    )
                )
            case Begun.DROPPED:
                pass

    async def _advance_current(self, message: CurrentAsOf) -> None:
        if message.epoch != self.epoch or self._stopping:
            return
        if message.number != self.receiver.committed_number:
            raise ProtocolError(f"CURRENT_AS_OF for point {message.number}, not newest")
        await self._store.advance_current(message.number, message.time_ns)
        await self._send(message)

    async def _note(self, message: Noted) -> None:
        if message.epoch == self.epoch and not self._stopping:
            await self._store.note(message.cycle_id)

    async def _resize(self, message: Resize) -> None:
        """Follow a volume that has grown; its points keep the sizes they have."""
        if not self.receiver.resize(message):
            return
        await self._idle.wait()  # for frames of a cycle that was abandoned
        if self._stopping:
            return
        index = self._order[message.volume]
        before = self._store.volumes[index]
        try:
            await self._store.grow(index, message.from_bytes, message.size_bytes)
        except (DeviceError, StateMismatchError) as error:
            self.refused = goodbye(GoodbyeReason.SIZE_MISMATCH, str(error))
            self.end(str(error), self.refused)
            return
        self.receiver.resized(message.volume, message.size_bytes)
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
        if message.epoch != self.epoch or self._stopping:
            return
        match message:
            case AskChanged():
                await self._send(await self._exchanging.tell_changes(message))
            case HandOver():
                refused = self._exchanging.hand_over(message)
                if refused is not None:
                    self.end(refused, goodbye(GoodbyeReason.NOT_PERMITTED, refused))
            case Whole():
                self._members.take(message)
            case OfferVolume():
                await self._send(await self._members.answer(message))

    def _check_sizes(self) -> None:
        """A HELLO may offer more than is here; a cycle begins only once it is."""
        for volume, index in enumerate(self._order):
            mine = self._store.volumes[index].size_bytes
            if self.receiver.shapes[volume].size_bytes != mine:
                raise ProtocolError("CYCLE_BEGIN before the RESIZE of a volume")

    # -- appliers --------------------------------------------------------------------

    async def _apply(self, volume: int) -> None:
        queue = self._queues[volume]
        following = await queue.get()
        while following is not None:  # ends with the session
            batch = [following]
            raw_bytes = credit_cost(following)
            while not queue.empty() and raw_bytes < BATCH_BYTES_MAX:
                following = queue.get_nowait()
                if following is None:
                    break
                batch.append(following)
                raw_bytes += credit_cost(following)
            await self._apply_batch(volume, batch)
            following = None if self._stopping else await queue.get()

    async def _apply_batch(self, volume: int, batch: list[Tracks | Hashes]) -> None:
        """Apply or compare frames in the order they came; those gone are dropped."""
        tracks: list[Tracks] = []
        for message in batch:
            if isinstance(message, Tracks):
                tracks.append(message)
                continue
            await self._apply_tracks(volume, tracks)
            tracks = []
            await self._compare(volume, message)
        await self._apply_tracks(volume, tracks)

    async def _apply_tracks(self, volume: int, batch: list[Tracks]) -> None:
        current = [each for each in batch if self._is_current(each)]
        if current:
            shape = self.receiver.shapes[volume]
            groups = await self._store.run_reader(
                partial(
                    decode_batch,
                    current,
                    shape,
                    delta=DELTA in self._features,
                    held=self._held(volume),
                )
            )
            for group in groups:
                if not self._is_current(current[0]):
                    break
                refused = await self._store.apply(self._order[volume], group.records)
                for frame, runs in (*group.refused, *group.frames_of(refused)):
                    await self._ask_whole(frame, runs)
        self._note_applied(batch)

    def _held(self, volume: int) -> Held | None:
        """Return what reads the newest point, where references to it were agreed."""
        if REFERENCE not in self._features:
            return None
        return partial(held_pieces, self._store.secondaries[self._order[volume]])

    async def _compare(self, volume: int, message: Hashes) -> None:
        if self._is_current(message):
            runs = await self._store.differing(
                self._order[volume], message.first, message.count, message.payload
            )
            await self._ask_whole(message, runs)
        self._note_applied([message])

    async def _ask_whole(
        self, message: Tracks | Hashes, runs: list[tuple[int, int]]
    ) -> None:
        """Ask for runs that a frame could not bring, before it is told applied."""
        for start in range(0, len(runs), RUNS_MAX):
            if self._is_current(message):
                await self._send(
                    NeedFull(
                        self.epoch,
                        message.cycle_id,
                        message.sequence,
                        message.volume,
                        tuple(runs[start : start + RUNS_MAX]),
                    )
                )

    def _is_current(self, message: Tracks | Hashes) -> bool:
        return self.receiver.is_current(message.epoch, message.cycle_id)

    def _note_applied(self, batch: Sequence[Tracks | Hashes]) -> None:
        if not batch:
            return
        if not self._unflushed_bytes:
            self._unflushed_since = self._clock.monotonic()
        for message in batch:
            self.receiver.applied(message)
            self._unflushed_bytes += credit_cost(message)
        self._unapplied_count -= len(batch)
        if not self._unapplied_count:
            self._idle.set()
        self._wake.set()

    # -- flush, progress, commit -------------------------------------------------------

    async def _finish(self) -> None:
        while not self._stopping:
            await self._woken()
            self._wake.clear()
            if self._is_flush_due():
                await self._flush()
            if self.receiver.is_complete and not self._stopping:
                await self._commit()

    async def _woken(self) -> None:
        """Wait for something to do; while unflushed work waits, not for long."""
        if not self._unflushed_bytes:
            await self._wake.wait()
            return
        left = self._unflushed_since + FLUSH_SECONDS - self._clock.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            return

    def _is_flush_due(self) -> bool:
        if not self._unflushed_bytes or self._stopping:
            return False
        waited = self._clock.monotonic() - self._unflushed_since
        return (
            not self._unapplied_count
            or self._unflushed_bytes >= UNFLUSHED_BYTES_MAX
            or waited >= FLUSH_SECONDS
        )

    async def _flush(self) -> None:
        """Make durable what has been applied, then acknowledge exactly that.

        Order: PROGRESS, then the CREDIT for it (see `Receiver.take_credit`).
        """
        applied = self.receiver.take_applied()
        self._unflushed_bytes = 0
        if applied is None:
            return
        count = await self._store.flush()
        if not self.receiver.flushed(applied):
            return
        for start in range(0, len(applied.sequences), RUNS_MAX):
            pairs = applied.sequences[start : start + RUNS_MAX]
            await self._send(Progress(self.epoch, applied.cycle_id, pairs, count))
        if given := self.receiver.take_credit():
            await self._send(Credit(self.epoch, applied.cycle_id, given))

    async def _commit(self) -> None:
        began = self._clock.monotonic()
        cycle = self.receiver.start_commit()
        relation_id = await self._store.commit(
            number=cycle.cycle_number,
            cycle_id=cycle.cycle_id,
            cut_ns=cycle.cut_ns,
            label=cycle.label,
            whole=self._members.whole(cycle.cycle_id),
        )
        self.receiver.committed()
        commit_seconds = self._clock.monotonic() - began
        self._on_committed(commit_seconds)
        self._log.info(
            "cycle_committed",
            number=cycle.cycle_number,
            commit_seconds=round(commit_seconds, 6),
            age_seconds=round((self._clock.now_ns() - cycle.cut_ns) / 1e9, 3),
        )
        await self._send(
            Committed(
                self.epoch,
                cycle.cycle_number,
                cycle.cycle_id,
                cycle.cut_ns,
                relation_id,
            )
        )


def _refill_with_end(queue: asyncio.Queue[Any]) -> None:
    """Leave nothing in a queue but the mark that ends its worker."""
    while not queue.empty():  # ends: nobody puts any more
        queue.get_nowait()
    queue.put_nowait(None)
