"""Answers to a verify: is this piece of a point what the sender had at its cut?

A question names the cycle whose cut the sender read. The point is pinned in the step
that receives the question, before anything that came after it can commit a newer
one: what is compared is that point, or the answer is GONE. A point never changes, so
neither the cycle being applied meanwhile nor time matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import chain

from common.errors import FarshoreError, ProtocolError
from common.ports import Buffer, Clock
from common.replication.cycle_messages import COVERED_BYTES_MAX
from common.replication.hash_tree import (
    leaves_of,
    leaves_of_zeroes,
    root_of,
    root_of_zeroes,
    zero_parts,
)
from common.replication.messages import Message
from common.replication.verify_messages import (
    LEAVES_MAX,
    QUESTIONS_MAX,
    VERIFIED_TEXT_BYTES_MAX,
    Outcome,
    Verified,
    Verify,
)
from common.storage.background_reading import BackgroundReading
from remote_site.receiver import VolumeShape
from remote_site.recovery_point import PointImage
from remote_site.store import GroupStore

READ_BYTES_MAX = 1 << 20
"""Read of a point at once: bounds the memory of a thread."""


class Answering:
    """The questions of one session, answered one after the other."""

    def __init__(
        self,
        epoch: int,
        store: GroupStore,
        shapes: Sequence[VolumeShape],
        order: Sequence[int],
        send: Callable[[Message], Awaitable[None]],
        clock: Clock,
        is_applying: Callable[[], bool],
    ) -> None:
        """`shapes` are in the peer's order; `order` gives the store's index of each.

        How much is read in a second is the sender's to say: it asks no more. While
        `is_applying`, most of the time is left to the cycle.
        """
        self._epoch = epoch
        self._store = store
        self._shapes = shapes
        self._order = order
        self._send = send
        self._clock = clock
        self._is_applying = is_applying
        self._pace = BackgroundReading(sys.maxsize)
        self._over = asyncio.Event()
        self._queue: asyncio.Queue[tuple[Verify, int | None] | None] = asyncio.Queue()
        self._ended = False

    def take(self, message: Verify) -> None:
        """Pin what is asked about, and queue the question.

        Raises `ProtocolError` for one that no sender of ours asks.
        """
        if message.epoch != self._epoch or self._ended:
            return
        self._check(message)
        pinned = self._store.pin_cycle(message.cycle_id)
        self._queue.put_nowait((message, pinned))

    def _check(self, message: Verify) -> None:
        if self._queue.qsize() >= QUESTIONS_MAX:
            raise ProtocolError("VERIFY: too many questions at once")
        if message.volume >= len(self._shapes):
            raise ProtocolError(f"VERIFY of volume {message.volume} of none such")
        shape = self._shapes[message.volume]
        if not message.count or message.first + message.count > shape.track_count:
            raise ProtocolError("VERIFY of tracks beyond the volume's end")
        if message.count * shape.track_bytes > COVERED_BYTES_MAX:
            raise ProtocolError("VERIFY: one question covers too much")

    async def run(self) -> None:
        """Answer until `end`."""
        try:
            while (taken := await self._queue.get()) is not None:
                await self._answer(*taken)
        finally:
            self._ended = True
            while not self._queue.empty():  # ends: nothing is taken any more
                if left := self._queue.get_nowait():
                    self._unpin(left[1])

    def end(self) -> None:
        """Have `run` return, once the answer under way is through."""
        self._ended = True
        self._over.set()
        while not self._queue.empty():  # ends: nothing is taken any more
            if left := self._queue.get_nowait():
                self._unpin(left[1])
        self._queue.put_nowait(None)

    def _unpin(self, number: int | None) -> None:
        if number is not None:
            self._store.unpin(number)

    async def _answer(self, question: Verify, number: int | None) -> None:
        leaves: tuple[bytes, ...] = ()
        outcome, text = Outcome.GONE, ""
        if number is not None:
            try:
                await self._rest()
                if not self._ended:
                    outcome, leaves, text = await self._compared(question, number)
            finally:
                self._unpin(number)
        if not self._ended:
            await self._send(
                Verified(
                    self._epoch,
                    question.cycle_id,
                    question.question,
                    outcome,
                    leaves,
                    text,
                )
            )

    async def _rest(self) -> None:
        """Wait until the next piece may be read, or nobody wants it any more."""
        wait = self._pace.wait_seconds(self._clock.monotonic())
        if wait:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._over.wait()

    async def _compared(
        self, question: Verify, number: int
    ) -> tuple[Outcome, tuple[bytes, ...], str]:
        image = self._store.image(self._order[question.volume], number)
        geometry = image.geometry  # of the point: the volume may have grown since
        if question.first + question.count > geometry.track_count:
            return Outcome.GONE, (), ""
        shape = VolumeShape(geometry.size_bytes, geometry.track_bytes)
        began, beside_others = self._clock.monotonic(), self._is_applying()
        try:
            is_equal, leaves = await self._store.run_reader(
                lambda: compare(image, shape, question)
            )
        except FarshoreError as error:
            text = str(error).encode("utf-8", "replace")[:VERIFIED_TEXT_BYTES_MAX]
            return Outcome.UNREADABLE, (), text.decode("utf-8", "ignore")
        finally:
            beside_others = beside_others or self._is_applying()
            ended = self._clock.monotonic()
            self._pace.note(began, ended, 0, beside_others=beside_others)
        return Outcome.EQUAL if is_equal else Outcome.DIFFERS, leaves, ""


def compare(
    image: PointImage, shape: VolumeShape, question: Verify
) -> tuple[bool, tuple[bytes, ...]]:
    """In a thread: return whether the piece is equal; if not, its leaves, unless many.

    Raises `StorageError`, or `CorruptStateError` where a journal fails its checksum.
    """
    if _root(image, shape, question) == question.root:
        return True, ()
    if question.count > LEAVES_MAX:
        return False, ()
    leaves: list[bytes] = []
    for length, data in _parts(image, shape, question):
        if data is None:
            leaves += leaves_of_zeroes(length, shape.track_bytes)
        else:
            leaves += leaves_of(data, shape.track_bytes)
    return False, tuple(leaves)


def _root(image: PointImage, shape: VolumeShape, question: Verify) -> bytes:
    parts = _parts(image, shape, question)
    length, data = next(parts)
    if data is None and length == _span(shape, question)[1]:
        return root_of_zeroes(length)

    def all_parts() -> Iterator[Buffer]:
        for size, found in chain([(length, data)], parts):
            if found is None:
                yield from zero_parts(size)
            else:
                yield found

    return root_of(all_parts())


def _span(shape: VolumeShape, question: Verify) -> tuple[int, int]:
    """Return (offset, length) of what is asked about."""
    offset = question.first * shape.track_bytes
    return offset, min(question.count * shape.track_bytes, shape.size_bytes - offset)


def _parts(
    image: PointImage, shape: VolumeShape, question: Verify
) -> Iterator[tuple[int, Buffer | None]]:
    """Yield (length, bytes) of whole tracks; None for a hole, which is not read.

    A point never changes, so that looking for holes first and reading then is safe.
    """
    start, length = _span(shape, question)
    end = start + length
    step = max(READ_BYTES_MAX // shape.track_bytes, 1) * shape.track_bytes
    while start < end:  # ends: a status tells of a track at least
        for told, is_hole in image.status(start, end - start):
            stop = start + told
            if is_hole:
                yield told, None
            else:
                for at in range(start, stop, step):
                    size = min(step, stop - at)
                    yield size, image.read(at, size)
            start = stop
