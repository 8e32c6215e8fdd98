"""Telling ranges apart: holes from data, changed tracks from clean ones.

Lists of (length, flags) as BLOCK_STATUS answers them, and READs answered in runs.
Pure but for `read_runs`. What counts tracks goes through numpy and looks at no more
than `WINDOW_TRACKS`, so that an answer costs the same however much was asked about:
the client asks on from where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from common.ports import Buffer, File
from common.storage.bitmap import Bitmap
from common.storage.geometry import Geometry

DIRTY_BITMAP: Final = "qemu:dirty-bitmap:farshore"
"""The context that tells what has changed: bit 0 set where a track may have."""

DATA: Final = 0
HOLE_AND_ZERO: Final = 3
CLEAN: Final = 0
DIRTY: Final = 1

EXTENTS_MAX: Final = 4096
"""Extents in one answer: bounds its size however fragmented a volume is."""

WINDOW_TRACKS: Final = 1 << 18
"""Tracks looked at together: a tenth of a millisecond, 1 GiB of 4 KiB tracks."""

WINDOWS_MAX: Final = 16
"""Windows of one answer: while all of them say the same, it costs little to go on."""

HOLE_RUN_BYTES_MIN: Final = 4096
"""A shorter hole within a READ costs more as a chunk of its own than as zeroes."""

SPARSE_READ_BYTES_MIN: Final = 32 << 10
"""A shorter READ of an image costs less whole than looked at for holes first."""

Extents = list[tuple[int, int]]
Bits = npt.NDArray[np.bool_]
ReadRuns = list[tuple[int, Buffer | None]]
"""Consecutive (length, bytes or None for zeroes)."""


def window(geometry: Geometry, offset: int, length: int) -> tuple[int, int]:
    """Return (first, count) of the tracks of a range that are looked at together."""
    first, count = geometry.tracks(offset, length)
    return first, min(count, WINDOW_TRACKS)


def bits_of(bitmap: Bitmap, first: int, count: int) -> Bits:
    """Return a copy of a range of a bitmap, one element a track.

    Tracks that the bitmap, made before its volume was extended, does not know are
    clear.
    """
    start, end = first >> 3, (first + count + 7) >> 3
    if end <= len(bitmap.data):
        raw = np.frombuffer(bitmap.data, np.uint8, end - start, start)
    else:
        raw = np.zeros(end - start, np.uint8)
        known = np.frombuffer(bitmap.data, np.uint8)[start:end]
        raw[: len(known)] = known
    bits = np.unpackbits(raw, bitorder="little")
    return bits[first & 7 : (first & 7) + count].view(np.bool_)


def tell_bits(
    bits: Bits, geometry: Geometry, first: int, offset: int, length: int, flag: int
) -> Extents:
    """Return (length, `flag` or 0) from `offset` for tracks `first` and on.

    `first` is the track of `offset`; every track touches the range. Stops short
    after `EXTENTS_MAX`, and where the tracks end.
    """
    changes = np.flatnonzero(bits[1:] != bits[:-1])[:EXTENTS_MAX] + 1
    stops = changes.tolist()
    if len(stops) < EXTENTS_MAX:
        stops.append(len(bits))
    end = offset + length
    is_set = bool(bits[0])
    found: Extents = []
    for stop in stops:
        at = min((first + stop) * geometry.track_bytes, end)
        found.append((at - offset, flag if is_set else 0))
        offset, is_set = at, not is_set
    return found


def tell_changed(
    bitmaps: Sequence[Bitmap], geometry: Geometry, offset: int, length: int
) -> Extents:
    """Return what any of `bitmaps` calls changed, from `offset` on.

    At one instant if called on the loop that owns them; bounded, see `WINDOWS_MAX`.
    """
    found: Extents = []
    end = offset + length
    for _ in range(WINDOWS_MAX):
        first, count = window(geometry, offset, end - offset)
        bits = np.zeros(count, np.bool_)
        for bitmap in bitmaps:
            if bitmap.count:
                bits |= bits_of(bitmap, first, count)
        part = tell_bits(bits, geometry, first, offset, end - offset, DIRTY)
        offset += sum(size for size, _ in part)
        found = joined([*found, *part])
        if len(found) > 1 or offset == end:
            break
    return found


def joined(extents: Iterable[tuple[int, int]]) -> Extents:
    """Return the extents with neighbours of equal flags made one."""
    found: Extents = []
    for size, flags in extents:
        if found and found[-1][1] == flags:
            found[-1] = (found[-1][0] + size, flags)
        else:
            found.append((size, flags))
    return found


def hole_bits(
    extents: Iterable[tuple[int, bool]], geometry: Geometry, first: int, count: int
) -> Bits:
    """Return which of the tracks lie wholly in holes of a file.

    `extents` are those of `File.extents` from the start of track `first`; what they
    do not cover counts as data.
    """
    bits = np.zeros(count, np.bool_)
    track_bytes = geometry.track_bytes
    at = first * track_bytes
    for size, is_hole in joined(extents):
        end = at + size
        if is_hole:
            start = -(-at // track_bytes)
            stop = end // track_bytes
            if end == geometry.size_bytes:
                stop = geometry.track_count  # the last track may be cut
            bits[max(start - first, 0) : max(stop - first, 0)] = True
        at = end
    return bits


def without_ranges(
    extents: Extents, offset: int, ranges: Iterable[tuple[int, int]]
) -> Extents:
    """Return the extents from `offset`, with every byte of `ranges` called data."""
    found: Extents = []
    pending = sorted(ranges, reverse=True)
    for size, flags in extents:
        end = offset + size
        while offset < end:
            while pending and sum(pending[-1]) <= offset:
                pending.pop()
            start, length = pending[-1] if pending else (end, 0)
            if start > offset:
                stop = min(start, end)
                found.append((stop - offset, flags))
            else:
                stop = min(start + length, end)
                found.append((stop - offset, DATA))
            offset = stop
    return joined(found)


def read_runs(file: File, offset: int, length: int) -> bytes | ReadRuns:
    """Read a range, holes unread, in runs; plain bytes where it has no hole.

    May block. Extents first, then the data between: what is written meanwhile may
    be answered either way, as with any read beside a write; a write that returned
    before is seen, for the file system calls no dirty page a hole.
    """
    extents = worth_telling(file.extents(offset, length), length)
    if not any(is_hole for _, is_hole in extents):
        return file.read(offset, length)
    return runs_of(extents, offset, file.read)


def runs_of(
    extents: Iterable[tuple[int, bool]],
    offset: int,
    read: Callable[[int, int], Buffer],
) -> ReadRuns:
    """Return the bytes of (length, is_hole) from `offset` on, those of holes unread."""
    runs: ReadRuns = []
    for size, is_hole in extents:
        runs.append((size, None if is_hole else read(offset, size)))
        offset += size
    return runs


def worth_telling(
    extents: Iterable[tuple[int, bool]], length: int
) -> list[tuple[int, bool]]:
    """Cover `length` by (length, is_hole), short holes taken for data.

    What `extents` leave out of `length` is data.
    """
    found: list[tuple[int, bool]] = []
    for size, is_hole in [*extents, (length, False)]:
        taken = min(size, length)
        is_told = is_hole and taken >= HOLE_RUN_BYTES_MIN
        if found and found[-1][1] == is_told:
            found[-1] = (found[-1][0] + taken, is_told)
        elif taken:
            found.append((taken, is_told))
        length -= taken
    return found
