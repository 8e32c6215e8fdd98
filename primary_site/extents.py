"""What a primary volume tells of itself: holes, what has changed, runs of a READ.

A client skips what it is told is a hole, or clean, and so a wrong answer corrupts
a copy in silence. Why these can't:

- `base:allocation` is what the file system said at some instant after the request
  came. A write that returned before that instant is seen, for no dirty page is a
  hole. One that was answered later, while the look was under way, has noted itself
  (`note_written`, before its reply), and its range is called data. So whoever has
  the reply to a write gets no answer that is older than it.
- `qemu:dirty-bitmap:farshore` is FlashCopy ∪ carried, read in one step on the loop
  that owns both. A write marks its tracks on that loop before it changes a byte, so
  no track is called clean that a write under way may have changed already. Carried
  holds what a restart or an abandoned cycle no longer knows exactly, and before the
  first cut every track: more than has changed since the last cut, never less.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from common.errors import StorageError
from common.ports import BASE_ALLOCATION, Complete, File, HostCommand, HostRequest
from common.storage.extents import (
    DATA,
    DIRTY_BITMAP,
    HOLE_AND_ZERO,
    Extents,
    ReadRuns,
    joined,
    read_runs,
    tell_changed,
    without_ranges,
)

if TYPE_CHECKING:
    from primary_site.volume import PrimaryVolume

CONTEXTS = (BASE_ALLOCATION, DIRTY_BITMAP)

NOTED_WRITES_MAX = 4096
"""Writes answered during one look at the device: more, and all of it is data."""

FAST_TRACKS_MAX = 1 << 22
"""A longer fast zero is refused unseen: a bitmap of 512 KiB is looked through in a
fraction of a millisecond, one of 32 MiB is not."""


class Look:
    """One look at the device under way, and what was written and answered since."""

    __slots__ = ("has_overflowed", "written")

    def __init__(self) -> None:
        self.written: list[tuple[int, int]] = []
        self.has_overflowed = False


def note_written(looks: list[Look], requests: list[HostRequest]) -> None:
    """Tell the looks under way of writes about to be answered.

    Trims and zeroes need not: what was data or a hole of zeroes before them is still
    described truly.
    """
    for look in looks:
        if len(look.written) + len(requests) > NOTED_WRITES_MAX:
            look.has_overflowed = True
            continue
        for request in requests:
            if request.command == HostCommand.WRITE:
                look.written.append((request.offset, request.length))


def read_device(device: File, request: HostRequest) -> bytes | ReadRuns:
    """In a thread: read what memory did not hold, in runs if the host takes them."""
    if request.sparse_ok:
        return read_runs(device, request.offset, request.length)
    return device.read(request.offset, request.length)


def tell_extents(
    volume: PrimaryVolume, request: HostRequest, complete: Complete
) -> None:
    """Answer a BLOCK_STATUS; the device is asked in a thread, bitmaps on the loop."""
    if BASE_ALLOCATION not in request.contexts:
        _answer(volume, request, [], complete)
        return
    look = Look()
    volume.looks.append(look)

    def done(found: list[tuple[int, bool]] | None, error: BaseException | None) -> None:
        volume.looks.remove(look)
        if found is None:
            request.error = (
                error.errno if isinstance(error, StorageError) else errno.EIO
            )
            complete([request])
            return
        told = joined(
            (size, HOLE_AND_ZERO if is_hole else DATA) for size, is_hole in found
        )
        if look.has_overflowed:
            told = [(sum(size for size, _ in told), DATA)]
        elif look.written:
            told = without_ranges(told, request.offset, look.written)
        _answer(volume, request, told, complete)

    volume.threads.submit(
        lambda: volume.device.extents(request.offset, request.length), done
    )


def _answer(
    volume: PrimaryVolume, request: HostRequest, allocation: Extents, complete: Complete
) -> None:
    changes = volume.changes
    request.data = [
        allocation
        if name == BASE_ALLOCATION
        else tell_changed(
            [changes.flashcopy.bitmap, *changes.carried],
            volume.geometry,
            request.offset,
            request.length,
        )
        for name in request.contexts
    ]
    complete([request])


def fast_zero_refused(volume: PrimaryVolume, request: HostRequest) -> bool:
    """Tell whether a fast WRITE_ZEROES would be no faster than writing.

    Of a track that is clear under a relation the old content must be copied first.
    Whoever asks refuses with ENOTSUP before anything is marked or changed. A cut
    that falls between two slices of a long one makes the rest slow, never wrong.
    """
    if not volume.device.zeroes_fast(punch=not request.no_hole):
        return True
    flashcopy = volume.changes.flashcopy
    if not request.length or not flashcopy.stands:
        return False
    first, count = volume.geometry.tracks(request.offset, request.length)
    return count > FAST_TRACKS_MAX or not flashcopy.is_marked(first, count)
