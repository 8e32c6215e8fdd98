"""Where in the newest point stands what a frame brings: the reference of its payload.

A database writes pages whole into its log before it writes them to their places; a
log's file is used again. Such tracks have nothing in common with what was in their
own place, but much with other tracks of the same cycle as they were at the cut
before: those the cycle's base has, and the tracks beside them, unchanged since. These
are indexed once a cycle, when the first frame comes that might gain by it.

As with the base nothing rests on it but bytes: the remote compares the hash of the
reference, and has the frame's tracks sent whole where it holds something else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from common.replication.referenced import (
    PIECE_BYTES,
    REFERENCE_PIECES_MAX,
    Pieces,
    Reference,
)
from common.replication.similarity import PAGE_PIECES, PieceIndex
from common.replication.tracks import DeltaRun, RunData
from primary_site.base import CycleBase
from primary_site.compression import Packed
from primary_site.cut_reader import CutReader

UNLIKE_BYTES_MIN = 64 << 10
"""Of a frame, in tracks that are unlike their base: less is not worth a look."""

SHRINKS = 0.8
"""What is not packed to less than this share is noise, and stands nowhere else."""

INDEXED_PIECES_MAX = 32 << 10
"""128 MiB of a cycle's base: for what lies behind, in larger cycles, none is looked
for. Bounds the time and 50 MiB of memory."""

CHUNK_PIECES = 256
"""Read and indexed by one thread's call."""

FRAMES_IN_VAIN = 4
CYCLES_LEFT_OUT_MAX = 32
"""After so many frames without any likeness a cycle's others are not looked at, and
one more cycle, then two, four, up to this many, is left out."""


class Habit:
    """One group's memory of whether looking was worth it. Owned by the event loop."""

    def __init__(self) -> None:
        self._pause = 0
        self._left_out = 0

    def begin(self) -> bool:
        """Tell whether to look in the cycle that begins."""
        if self._left_out:
            self._left_out -= 1
            return False
        return True

    def found(self) -> None:
        self._pause = self._left_out = 0

    def found_nothing(self) -> None:
        self._pause = min(max(2 * self._pause, 1), CYCLES_LEFT_OUT_MAX)
        self._left_out = self._pause


class Likeness:
    """Of one volume in one cycle. Owned by the event loop; work is done in threads."""

    def __init__(self, reader: CutReader, base: CycleBase, habit: Habit) -> None:
        self._reader = reader
        self._base = base
        self._habit = habit
        self._stands = True
        self._in_vain = 0
        self._index: PieceIndex | None = None
        self._indexing = asyncio.Lock()

    def is_worth(self, packed: Packed, unlike: Sequence[RunData]) -> bool:
        """Tell whether to look, by a frame's size without a reference."""
        return (
            self._stands
            and packed.level is not None
            and len(packed.payload) < SHRINKS * packed.raw_bytes
            and sum(_size(run) for run in unlike) >= UNLIKE_BYTES_MIN
        )

    def stop(self) -> None:
        """Look no more in this cycle: the remote holds something else."""
        self._stands = False
        self._index = None

    async def reference(self, unlike: Sequence[RunData]) -> Reference | None:
        """Return what some of the runs' content is like, if anything is.

        Raises as `CutReader.read` does.
        """
        volume = self._reader.volume
        async with self._indexing:
            if self._index is None and self._stands:
                self._index = await self._indexed()
        index = self._index
        if index is None:
            return None
        wanted = b"".join(_whole_pieces(unlike))
        most = min(REFERENCE_PIECES_MAX, 2 * len(wanted) // PIECE_BYTES)
        pieces = await volume.threads.run(index.find, wanted, most)
        pieces = _clipped(pieces, volume.geometry.size_bytes)
        data = await self._read(pieces) if pieces else None
        if data is None:
            self._note_in_vain()
            return None
        self._in_vain = 0
        self._habit.found()
        return Reference(pieces, data)

    def _note_in_vain(self) -> None:
        self._in_vain += 1
        if self._in_vain == FRAMES_IN_VAIN:
            self.stop()
            self._habit.found_nothing()

    async def _indexed(self) -> PieceIndex | None:
        volume = self._reader.volume
        numbers = await volume.threads.run(self._pieces)
        index = PieceIndex(len(numbers))
        for start in range(0, len(numbers), CHUNK_PIECES):
            part = numbers[start : start + CHUNK_PIECES]
            data = await self._read(_runs(part))
            if data is None:
                self.stop()
                return None
            await volume.threads.run(index.add, part, data)
        return index

    def _pieces(self) -> npt.NDArray[np.int64]:
        """Return the whole pieces of all pages that the base has something of."""
        geometry = self._reader.volume.geometry
        page_bytes = PAGE_PIECES * PIECE_BYTES
        pages: list[npt.NDArray[np.int64]] = []
        last, left = -1, INDEXED_PIECES_MAX // PAGE_PIECES
        for run in self._base.runs():
            offset, length = geometry.byte_range(*run)
            first = max(offset // page_bytes, last + 1)
            end = min(-(-(offset + length) // page_bytes), first + left)
            if end > first:
                pages.append(np.arange(first, end, dtype=np.int64))
                last, left = end - 1, left - (end - first)
            if not left:
                break
        if not pages:
            return np.zeros(0, np.int64)
        found = np.concatenate(pages)[:, None] * PAGE_PIECES + np.arange(PAGE_PIECES)
        return found.ravel()[found.ravel() < geometry.size_bytes // PIECE_BYTES]

    async def _read(self, pieces: Pieces) -> bytes | None:
        """Return what the newest point has there; None if it can't be told any more."""
        base, reader = self._base, self._reader
        track_bytes = reader.volume.geometry.track_bytes
        places = list(_places(pieces, track_bytes, base.has))
        kept = [(offset, length) for offset, length, has in places if has]
        beside = [(offset // track_bytes, 1) for offset, _, has in places if not has]
        found = await base.run(reader.volume.threads, lambda: base.parts(kept))
        if found is None:
            return None
        changed = iter(found)
        unchanged = iter(await reader.read(beside)) if beside else iter(())
        parts = []
        for offset, length, has in places:
            if has:
                parts.append(next(changed))
            else:
                parts.append(_within(next(unchanged), offset % track_bytes, length))
        return b"".join(parts)


def unlike(records: Sequence[RunData | DeltaRun]) -> list[RunData]:
    """Return the records that go as they are, without zeroes."""
    return [
        each for each in records if isinstance(each, RunData) and each.data is not None
    ]


def _size(run: RunData) -> int:
    return 0 if run.data is None else memoryview(run.data).nbytes


def _whole_pieces(runs: Sequence[RunData]) -> Iterator[memoryview]:
    for run in runs:
        assert run.data is not None
        data = memoryview(run.data)
        yield data[: data.nbytes // PIECE_BYTES * PIECE_BYTES]


def _runs(numbers: npt.NDArray[np.int64]) -> Pieces:
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    return [(int(part[0]), len(part)) for part in np.split(numbers, breaks)]


def _clipped(pieces: Pieces, size_bytes: int) -> Pieces:
    """Cut off what lies behind the last whole piece of the volume."""
    end = size_bytes // PIECE_BYTES
    return [(first, min(count, end - first)) for first, count in pieces if first < end]


def _places(
    pieces: Pieces, track_bytes: int, has: Callable[[int], bool]
) -> Iterator[tuple[int, int, bool]]:
    """Yield (offset, length, whether the base has it) of the pieces' bytes.

    What it has in one piece as far as it goes, what it has not track by track.
    """
    for first, count in pieces:
        at, end = first * PIECE_BYTES, (first + count) * PIECE_BYTES
        while at < end:
            is_kept = has(at // track_bytes)
            stop = min(end, at - at % track_bytes + track_bytes)
            while is_kept and stop < end and has(stop // track_bytes):
                stop = min(end, stop + track_bytes)
            yield at, stop - at, is_kept
            at = stop


def _within(run: RunData, at: int, length: int) -> bytes:
    if run.data is None:
        return bytes(length)
    return bytes(memoryview(run.data)[at : at + length])
