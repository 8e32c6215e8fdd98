"""Read a recovery point: image(k) of a track is its first record in the journals
of points k, k+1, ..., else what the secondary volume holds.

Readers never wait for the applier. They look at the indexes, read the device, and
look again: an entry is visible before its track is overwritten, so a track without
one after the read was still the point's own while it was read.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator

from common.errors import FarshoreError, StorageError
from common.ports import BASE_ALLOCATION, Complete, HostCommand, HostRequest, Threads
from common.storage.journal import Journal
from common.storage.journal_format import Entry
from remote_site.secondary import SecondaryVolume

Run = tuple[int, int]
Piece = tuple[int, int, Journal, Entry]
"""(first track, count, journal, entry): these tracks lie within that entry."""

STATUS_TRACKS_MAX = 1 << 18
"""Tracks that one BLOCK_STATUS looks at; the client asks on from there."""

STATUS_EXTENTS_MAX = 4096
"""Descriptors in one answer: bounds its size however fragmented the volume is."""

BASE_HOLE_AND_ZERO = 3
BASE_DATA = 0


class PointImage:
    """Point `number` of a volume; synchronous, from any thread, may block.

    The point's journals have to be kept (pinned) while this is used.
    """

    def __init__(self, volume: SecondaryVolume, number: int) -> None:
        self._volume = volume
        self._number = number
        self._unpacked: tuple[Journal, Entry, bytes | None] | None = None

    def _journals(self) -> list[Journal]:
        return [
            journal
            for journal in self._volume.journals
            if journal.header.point_number >= self._number
        ]

    def _resolve(self, runs: list[Run]) -> tuple[list[Piece], list[Run]]:
        """Return what the journals hold of the runs, and the runs they do not."""
        pieces: list[Piece] = []
        for journal in self._journals():
            if not runs:
                break
            left: list[Run] = []
            for first, count in runs:
                cursor, end = first, first + count
                for entry in journal.find(first, count):
                    start = max(cursor, entry[0])
                    stop = min(end, entry[0] + entry[1])
                    if start > cursor:
                        left.append((cursor, start - cursor))
                    if start < stop:
                        pieces.append((start, stop - start, journal, entry))
                        cursor = stop
                if cursor < end:
                    left.append((cursor, end - cursor))
            runs = left
        return pieces, runs

    def read(self, offset: int, length: int) -> bytearray:
        """Return the point's bytes, of any alignment.

        Raises `StorageError`, or `CorruptStateError` where a checksum fails.
        """
        data = bytearray(length)
        pieces, runs = self._resolve([self._volume.geometry.tracks(offset, length)])
        for run in runs:
            start, size = self._clip(run, offset, length)
            data[start - offset : start - offset + size] = self._volume.device.read(
                start, size
            )
        if runs:
            # Look again: what was preserved meanwhile comes from the journal.
            pieces += self._resolve(runs)[0]
        for first, count, journal, entry in pieces:
            start, size = self._clip((first, count), offset, length)
            data[start - offset : start - offset + size] = self._old(
                journal, entry, start, size
            )
        return data

    def _clip(self, run: Run, offset: int, length: int) -> tuple[int, int]:
        start, size = self._volume.geometry.byte_range(*run)
        end = min(start + size, offset + length)
        start = max(start, offset)
        return start, end - start

    def _old(self, journal: Journal, entry: Entry, start: int, size: int) -> bytes:
        # One record is kept unpacked: small reads in a row would unpack it anew.
        # A tuple, replaced as a whole: another thread may do the same.
        kept = self._unpacked
        if kept is None or kept[0] is not journal or kept[1] != entry:
            kept = (journal, entry, journal.read(entry))
            self._unpacked = kept
        if kept[2] is None:
            return bytes(size)
        at = start - entry[0] * self._volume.geometry.track_bytes
        return kept[2][at : at + size]

    def status(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Return (length, flags) from `offset`; may stop short of `length`.

        A hole is said only where the device has one and no journal an entry;
        data is always a safe answer. Looks again, as `read` does: a track may have
        been preserved and punched between the first look and the device's answer.
        """
        volume = self._volume
        first, count = volume.geometry.tracks(offset, length)
        count = min(count, STATUS_TRACKS_MAX)
        _, runs = self._resolve([(first, count)])
        holes: list[Run] = []
        for run in runs:
            holes.extend(
                (f, c) for f, c, is_hole in volume.track_extents(*run) if is_hole
            )
        _, holes = self._resolve(sorted(holes))
        end = min(sum(volume.geometry.byte_range(first, count)), offset + length)
        found: list[tuple[int, int]] = []
        for size, flags in _described(
            (self._clip(hole, offset, end - offset) for hole in sorted(holes)),
            offset,
            end,
        ):
            if found and found[-1][1] == flags:
                found[-1] = (found[-1][0] + size, flags)
            elif len(found) < STATUS_EXTENTS_MAX:
                found.append((size, flags))
            else:
                break
        return found


def _described(
    holes: Iterator[tuple[int, int]], offset: int, end: int
) -> Iterator[tuple[int, int]]:
    for start, size in holes:
        if start > offset:
            yield start - offset, BASE_DATA
        yield size, BASE_HOLE_AND_ZERO
        offset = start + size
    if offset < end:
        yield end - offset, BASE_DATA


class PointVolume:
    """A recovery point as a read-only `HostVolume`; pinned until `release`."""

    contexts: tuple[str, ...] = (BASE_ALLOCATION,)
    fast_zero = False

    def __init__(
        self,
        image: PointImage,
        volume: SecondaryVolume,
        description: str,
        threads: Threads,
        unpin: Callable[[], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.size_bytes = volume.geometry.size_bytes
        self.read_only = True
        self.description = description
        self.preferred_block_bytes = volume.geometry.track_bytes
        self._image = image
        self._threads = threads
        self._unpin: Callable[[], None] | None = unpin

    def submit(self, requests: list[HostRequest], complete: Complete) -> None:
        """Start all requests: one hop to a thread for as many as come together."""
        assert self._unpin is not None, "a request after the release"
        answered: list[HostRequest] = []
        blocking: list[HostRequest] = []
        for request in requests:
            match request.command:
                case HostCommand.READ | HostCommand.BLOCK_STATUS:
                    blocking.append(request)
                case HostCommand.FLUSH | HostCommand.CACHE:
                    answered.append(request)
                case _:
                    request.error = errno.EPERM
                    answered.append(request)
        if answered:
            complete(answered)
        if not blocking:
            return

        def done(_: None, error: BaseException | None) -> None:
            for request in blocking:
                if error is not None and request.data is None:
                    request.error = errno.EIO
            complete(blocking)

        self._threads.submit(lambda: self._serve(blocking), done)

    def _serve(self, requests: list[HostRequest]) -> None:
        for request in requests:
            try:
                if request.command == HostCommand.READ:
                    request.data = self._image.read(request.offset, request.length)
                else:
                    told = self._image.status(request.offset, request.length)
                    request.data = [told for _ in request.contexts]
            except StorageError as error:
                request.error = error.errno
            except FarshoreError:
                request.error = errno.EIO

    def release(self) -> None:
        """Unpin the point; once."""
        if self._unpin is not None:
            unpin, self._unpin = self._unpin, None
            unpin()
