"""Frames of a session on their way to the store: queued, decoded, applied or compared.

One applier a volume keeps the order of its frames. None is ever cancelled: a thread
would write on after its task was gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

from common.replication.cycle_messages import RUNS_MAX, Hashes, NeedFull, Tracks
from common.replication.features import DELTA, REFERENCE
from common.replication.messages import Message
from common.replication.referenced import Held
from remote_site.bases import held_pieces
from remote_site.batches import decode_batch
from remote_site.receiver import Receiver, credit_cost
from remote_site.store import GroupStore

FRAMES_QUEUED_MAX = 1024
"""Frames of one volume waiting to be applied. Credit bounds their bytes; this
bounds what tiny frames cost beside them: a link that fills it is not read."""

BATCH_BYTES_MAX = 8 << 20
"""Raw bytes handed to one thread hop."""

Frame = Tracks | Hashes


class Applying:
    """What a session has received and not yet applied."""

    def __init__(
        self,
        receiver: Receiver,
        store: GroupStore,
        order: Sequence[int],
        features: Collection[str],
        send: Callable[[Message], Awaitable[None]],
        applied: Callable[[Sequence[Frame]], None],
    ) -> None:
        """`order` gives the store's index of each volume, in the peer's order.
        `applied` is told of frames that are done with, dropped ones among them."""
        self.unapplied_count = 0
        self.idle = asyncio.Event()
        """Nothing is queued, and no thread is applying."""
        self.idle.set()
        self._receiver = receiver
        self._store = store
        self._order = order
        self._features = features
        self._send = send
        self._applied = applied
        self._is_ending = False
        self._queues: list[asyncio.Queue[Frame | None]] = [
            asyncio.Queue(FRAMES_QUEUED_MAX) for _ in order
        ]

    async def take(self, message: Frame) -> None:
        """Queue a frame that the receiver has taken."""
        self.unapplied_count += 1
        self.idle.clear()
        await self._queues[message.volume].put(message)

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """Return the appliers, one a volume; they return after `stop` and `end`."""
        return [self._apply(volume) for volume in range(len(self._queues))]

    def stop(self) -> None:
        """Begin with no further batch."""
        self._is_ending = True

    def end(self) -> None:
        """End whoever waits for frames, or for their end."""
        self.idle.set()
        for queue in self._queues:
            refill_with_end(queue)

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
            following = None if self._is_ending else await queue.get()

    async def _apply_batch(self, volume: int, batch: list[Frame]) -> None:
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
            decode = partial(
                decode_batch,
                current,
                self._receiver.shapes[volume],
                delta=DELTA in self._features,
                held=self._held(volume),
            )
            index = self._order[volume]
            groups, refused = await self._store.apply_decoded(index, decode)
            for group in groups:
                if group is not groups[0]:
                    if not self._is_current(current[0]):
                        break
                    refused = await self._store.apply(index, group.records)
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

    async def _ask_whole(self, message: Frame, runs: list[tuple[int, int]]) -> None:
        """Ask for runs that a frame could not bring, before it is told applied."""
        for start in range(0, len(runs), RUNS_MAX):
            if self._is_current(message):
                await self._send(
                    NeedFull(
                        self._receiver.epoch,
                        message.cycle_id,
                        message.sequence,
                        message.volume,
                        tuple(runs[start : start + RUNS_MAX]),
                    )
                )

    def _is_current(self, message: Frame) -> bool:
        return self._receiver.is_current(message.epoch, message.cycle_id)

    def _note_applied(self, batch: Sequence[Frame]) -> None:
        if not batch:
            return
        self.unapplied_count -= len(batch)
        if not self.unapplied_count:
            self.idle.set()
        self._applied(batch)


def refill_with_end(queue: asyncio.Queue[Any]) -> None:
    """Leave nothing in a queue but the mark that ends its worker."""
    while not queue.empty():  # ends: nobody puts any more
        queue.get_nowait()
    queue.put_nowait(None)
