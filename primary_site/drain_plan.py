"""What a drain sends next: runs of PPRC less acked, gathered into frames.

Scattered tracks are gathered until a frame is worth a hop; long runs are asked
for holes first, so that an empty terabyte costs a few records.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace

from common.replication.cycle_messages import HASH_BYTES, ZERO_BYTES_MAX
from common.storage.bitmap import Bitmap
from common.storage.flashcopy import Runs
from primary_site.changes import still_to_send
from primary_site.cut_reader import CutReader

FRAME_BYTES = 1 << 20
"""Bytes of tracks in one frame: small beside a link's quarter second, large
beside the cost of a hop."""

LARGE_FRAMES = 2
"""So many times as large are frames where that gains something: what shrinks much
does so by looking back."""

FRAME_RUNS_MAX = 1024
HASHED_TRACKS_MAX = 2048
HASHED_BYTES = 8 << 20
"""Read and hashed for one HASHES frame at most."""

HOLE_PROBE_TRACKS = 256
"""A run at least this long is worth a look for holes."""

WINDOW_TRACKS = 1 << 18
"""Searched for runs by one call."""

PROBE_BYTES = 1 << 30
"""Looked through for holes by one call."""


@dataclass(slots=True)
class Unit:
    """One frame's worth of tracks of one volume, as at the cut.

    `zero`: known holes, nothing to read. `hashed`: only suspected, goes as hashes.
    `whole`: goes as it is, the remote asked for it. `based`: runs that were sent as
    hashes or differences, or all where `referred`: it goes against a reference.
    `excluded`: those of them that the remote wants whole; they
    are another unit then.

    Once sent it has its frame's number, credit and checksum; `is_lost` where the frame
    went down with its link, and another unit stands for it.
    """

    volume: int
    runs: Runs
    zero: bool = False
    hashed: bool = False
    whole: bool = False
    based: Runs = field(default_factory=list)
    excluded: Runs = field(default_factory=list)
    referred: bool = False
    sequence: int | None = None
    cost_bytes: int = 0
    checksum: int = 0
    is_lost: bool = False

    def anew(self) -> Unit:
        """Return the same tracks, to be sent under the same number as if never sent."""
        return replace(
            self,
            based=[],
            excluded=[],
            referred=False,
            checksum=0,
            cost_bytes=0,
            is_lost=False,
        )


FrameBytes = Callable[[int], int]
"""How many bytes of tracks, of at most so many, a frame that is begun now holds."""


def full_frames(most: int) -> int:
    """Fill every frame: the link is not paced."""
    return most


async def plan(
    readers: list[CutReader], frame_bytes: FrameBytes = full_frames
) -> AsyncIterator[Unit]:
    """Yield units until every PPRC track that is not acked has been in one."""
    for index, reader in enumerate(readers):
        changes = reader.volume.changes
        assert changes.pprc is not None
        todo = await reader.volume.threads.run(
            still_to_send, changes.pprc, changes.acked
        )
        suspect = changes.suspect
        async for unit in _plan_volume(index, reader, todo, suspect, frame_bytes):
            yield unit


class Gatherer:
    """Gathers runs into units of at most `frame_bytes` (or one track)."""

    def __init__(
        self,
        volume: int,
        track_bytes: int,
        frame_bytes: FrameBytes = full_frames,
        *,
        whole: bool = False,
    ) -> None:
        self._volume = volume
        self._whole = whole
        self._track_bytes = track_bytes
        self._frame_bytes = frame_bytes
        self._runs: Runs = []
        self._room = self._tracks_max()

    def _tracks_max(self) -> int:
        return max(self._frame_bytes(FRAME_BYTES) // self._track_bytes, 1)

    def add(self, first: int, count: int) -> Iterator[Unit]:
        """Take a run in; yield the units that became full."""
        for part in _chunks(first, count, self._tracks_max()):
            if part[1] > self._room or len(self._runs) == FRAME_RUNS_MAX:
                yield from self.rest()
            self._runs.append(part)
            self._room -= part[1]

    def rest(self) -> Iterator[Unit]:
        """Yield what has been gathered so far, if anything."""
        if self._runs:
            yield Unit(self._volume, self._runs, whole=self._whole)
        self._runs, self._room = [], self._tracks_max()


async def _plan_volume(
    index: int,
    reader: CutReader,
    todo: Bitmap,
    suspect: Bitmap | None,
    frame_bytes: FrameBytes,
) -> AsyncIterator[Unit]:
    track_bytes = reader.volume.geometry.track_bytes
    gathered = Gatherer(index, track_bytes, frame_bytes)
    async for run in _runs(reader, todo, PROBE_BYTES // track_bytes):
        if suspect is None and run[1] < HOLE_PROBE_TRACKS:
            for unit in gathered.add(*run):  # nearly all, where they are scattered
                yield unit
            continue
        for start, size, kind in await _split(reader, *run, suspect):
            if kind is _Kind.DATA:
                units = gathered.add(start, size)
            else:
                units = _special(index, start, size, kind, track_bytes, frame_bytes)
            for unit in units:
                yield unit
    for unit in gathered.rest():
        yield unit


def _special(
    volume: int,
    first: int,
    count: int,
    kind: _Kind,
    track_bytes: int,
    frame_bytes: FrameBytes,
) -> Iterator[Unit]:
    """Yield units for tracks that do not travel as they are."""
    if kind is _Kind.HOLE:
        longest = ZERO_BYTES_MAX // track_bytes
    else:
        hashes = frame_bytes(FRAME_BYTES) // HASH_BYTES
        longest = max(min(HASHED_TRACKS_MAX, HASHED_BYTES // track_bytes, hashes), 1)
    for part in _chunks(first, count, longest):
        yield Unit(
            volume, [part], zero=kind is _Kind.HOLE, hashed=kind is _Kind.SUSPECT
        )


async def _runs(
    reader: CutReader, todo: Bitmap, longest: int
) -> AsyncIterator[tuple[int, int]]:
    """Yield the runs of `todo`, found in a thread; none is longer than `longest`."""
    end = todo.next_set(0)
    while end < todo.bit_count:
        first, end = end, min(end + WINDOW_TRACKS, todo.bit_count)
        for run in await reader.volume.threads.run(todo.runs_now, first, end):
            for part in _chunks(*run, longest):
                yield part
        end = todo.next_set(end)


class _Kind(enum.Enum):
    DATA = 1
    HOLE = 2
    SUSPECT = 3


async def _split(
    reader: CutReader, first: int, count: int, suspect: Bitmap | None
) -> list[tuple[int, int, _Kind]]:
    if suspect is None:
        return await _split_holes(reader, first, count)
    pieces: list[tuple[int, int, _Kind]] = []
    for piece in _split_suspect(first, count, suspect):
        if piece[2] is _Kind.DATA and piece[1] >= HOLE_PROBE_TRACKS:
            pieces += await _split_holes(reader, *piece[:2])
        else:
            pieces.append(piece)
    return pieces


def _split_suspect(
    first: int, count: int, suspect: Bitmap
) -> list[tuple[int, int, _Kind]]:
    """Suspected tracks go by hash; those known to have changed go whole."""
    pieces: list[tuple[int, int, _Kind]] = []
    at, end = first, first + count
    for start, size in suspect.runs(first, end):
        if start > at:
            pieces.append((at, start - at, _Kind.DATA))
        pieces.append((start, size, _Kind.SUSPECT))
        at = start + size
    if at < end:
        pieces.append((at, end - at, _Kind.DATA))
    return pieces


def _chunks(first: int, count: int, longest: int) -> Iterator[tuple[int, int]]:
    for start in range(first, first + count, longest):
        yield start, min(longest, first + count - start)


async def _split_holes(
    reader: CutReader, first: int, count: int
) -> list[tuple[int, int, _Kind]]:
    """Return (first, count, kind), holes being whole tracks that were holes at the cut.

    The device is asked first and the map looked at after: a hole whose tracks
    are all still clear then was a hole at the cut.
    """
    geometry = reader.volume.geometry
    offset, length = geometry.byte_range(first, count)
    extents = await reader.volume.threads.run(
        reader.volume.device.extents, offset, length
    )
    flashcopy = reader.volume.changes.flashcopy
    pieces: list[tuple[int, int, _Kind]] = []
    end, at = first + count, first
    for size, is_hole in extents:
        start, offset = offset, offset + size
        if not is_hole:
            continue
        hole_first = -(-start // geometry.track_bytes)
        hole_end = offset // geometry.track_bytes
        if offset == geometry.size_bytes:
            hole_end = geometry.track_count
        hole_end = min(hole_end, end)
        hole_first = max(hole_first, at)
        if hole_end - hole_first < 1:
            continue
        if flashcopy.bitmap.count_range(hole_first, hole_end - hole_first):
            continue
        if hole_first > at:
            pieces.append((at, hole_first - at, _Kind.DATA))
        pieces.append((hole_first, hole_end - hole_first, _Kind.HOLE))
        at = hole_end
    if at < end:
        pieces.append((at, end - at, _Kind.DATA))
    reader.check()
    return pieces
