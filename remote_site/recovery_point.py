"""Read a recovery point: image(k) of a track is its first record in the journals
of points k, k+1, ..., else what the secondary volume holds.

Readers never wait for the applier. They look at the indexes, read the device, and
look again: an entry is visible before its track is overwritten, so a track without
one after the read was still the point's own while it was read.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Protocol

import numpy as np

from common.errors import FarshoreError, StorageError
from common.ports import BASE_ALLOCATION, Complete, HostCommand, HostRequest, Threads
from common.storage.extents import (
    DIRTY,
    DIRTY_BITMAP,
    HOLE_AND_ZERO,
    SPARSE_READ_BYTES_MIN,
    Extents,
    ReadRuns,
    runs_of,
    tell_bits,
    window,
    worth_telling,
)
from common.storage.geometry import Geometry
from common.storage.journal import Journal
from common.storage.journal_format import Entry
from common.storage.journal_window import Piece, Run
from remote_site.point_map import PointMap
from remote_site.secondary import SecondaryVolume


class PointGoneError(FarshoreError):
    """The budget for journals took a point that somebody was reading."""


class PointImage:
    """Point `number` of a volume; synchronous, from any thread, may block.

    The point's journals have to be kept (pinned) while this is used; those of the
    point `before` it too, for `changed`.
    """

    def __init__(
        self,
        volume: SecondaryVolume,
        number: int,
        before: int | None = None,
        *,
        once: bool = False,
    ) -> None:
        """`once`: what is read is not worth keeping in memory."""
        self._volume = volume
        self._once = once
        self._number = number
        self.before = before
        self.geometry = self._geometry_at(number)
        """Of the point: its volume may have grown since, and may while it is read."""
        self._unpacked: tuple[Journal, Entry, bytes | None] | None = None
        self._seen: tuple[object, tuple[Journal, ...]] = (None, ())
        """A volume's journals, and those of them that count here."""
        self._map = PointMap(self.geometry.track_count)

    def _geometry_at(self, number: int) -> Geometry:
        for journal in self._volume.journals:
            if journal.header.point_number == number:
                return journal.header.geometry
        raise PointGoneError(f"recovery point {number} is gone")

    def _chain(self) -> tuple[Journal, ...]:
        """Return the point's own journal and all later ones.

        Raises `PointGoneError` once the point is no more: without its own journal the
        later ones would show something newer.
        """
        journals = self._volume.journals
        if journals is not self._seen[0]:
            chain = tuple(j for j in journals if j.header.point_number >= self._number)
            self._seen = (journals, chain)
        chain = self._seen[1]
        if not chain or chain[0].header.point_number != self._number:
            raise PointGoneError(
                f"recovery point {self._number} is gone: room for journals ran out"
            )
        return chain

    def _resolve(self, runs: list[Run]) -> tuple[list[Piece], list[Run]]:
        """Return what the journals hold of the runs, and the runs they do not."""
        return self._map.resolve(self._chain(), runs)

    def read(self, offset: int, length: int) -> bytearray:
        """Return the point's bytes, of any alignment.

        Raises `StorageError`, `CorruptStateError` where a checksum fails, or
        `PointGoneError`.
        """
        with self._volume.leases.held():
            return self._read(offset, length)

    def _read(self, offset: int, length: int) -> bytearray:
        data = bytearray(length)
        pieces, runs = self._resolve([self.geometry.tracks(offset, length)])
        device = self._volume.device
        read = device.read_once if self._once else device.read
        for run in runs:
            start, size = self._clip(run, offset, length)
            data[start - offset : start - offset + size] = read(start, size)
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
        start, size = self.geometry.byte_range(*run)
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
        at = start - entry[0] * self.geometry.track_bytes
        return kept[2][at : at + size]

    def read_runs(self, offset: int, length: int) -> ReadRuns:
        """Return the point's bytes in runs, those of holes unread.

        A point never changes, so that looking first and reading then is safe.
        """
        told = self.status(offset, length)
        holes = ((size, flags == HOLE_AND_ZERO) for size, flags in told)
        return runs_of(worth_telling(holes, length), offset, self.read)

    def status(self, offset: int, length: int) -> Extents:
        """Return (length, flags) from `offset`; may stop short of `length`.

        A hole is said only where the device has one and no journal an entry;
        data is always a safe answer. Looks again, as `read` does: a track may have
        been preserved and punched between the first look and the device's answer.
        """
        first, count = window(self.geometry, offset, length)
        with self._volume.leases.held():
            _, runs = self._resolve([(first, count)])
            holes: list[Run] = []
            for run in runs:
                found = self._volume.track_extents(*run)
                holes.extend((f, c) for f, c, is_hole in found if is_hole)
            _, holes = self._resolve(sorted(holes))
        return self._told(holes, (first, count), offset, length, HOLE_AND_ZERO)

    def changed(self, offset: int, length: int) -> Extents:
        """Return what differs from the point before, from `offset` on.

        The journals from that point up to this one hold the old content of every
        track that was overwritten between the two, and of no other. They are
        complete since this point was committed. A track that was overwritten with
        what it held already counts: more than differs, never less. So does what the
        volume has grown by since that point.
        """
        assert self.before is not None
        first, count = window(self.geometry, offset, length)
        with self._volume.leases.held():
            journals = [
                journal
                for journal in self._volume.journals
                if self.before <= journal.header.point_number < self._number
            ]
            if not journals or journals[0].header.point_number != self.before:
                return [(length, DIRTY)]  # it is gone: all may have changed
            runs: list[Run] = [
                entry[:2] for each in journals for entry in each.find(first, count)
            ]
        before_bytes = journals[0].header.size_bytes
        if before_bytes < self.geometry.size_bytes:
            known = before_bytes // self.geometry.track_bytes
            runs.append((known, self.geometry.track_count - known))
        return self._told(runs, (first, count), offset, length, DIRTY)

    def _told(
        self, runs: list[Run], looked_at: Run, offset: int, length: int, flag: int
    ) -> Extents:
        first, count = looked_at
        bits = np.zeros(count, np.bool_)
        for start, tracks in runs:
            bits[max(start - first, 0) : max(start + tracks - first, 0)] = True
        return tell_bits(bits, self.geometry, first, offset, length, flag)


class Pins(Protocol):
    """The points that an opening keeps."""

    def hold_before(self) -> bool:
        """Keep the point before, too; False if it is not there any more."""
        ...

    def release(self) -> None:
        """Let go of all."""
        ...


class PointVolume:
    """A recovery point as a read-only `HostVolume`; pinned until `release`."""

    fast_zero = False

    def __init__(
        self,
        image: PointImage,
        description: str,
        threads: Threads,
        pins: Pins,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.size_bytes = image.geometry.size_bytes
        self.read_only = True
        self.description = description
        self.preferred_block_bytes = image.geometry.track_bytes
        self.contexts: tuple[str, ...] = (BASE_ALLOCATION,)
        if image.before is not None:
            self.contexts = (BASE_ALLOCATION, DIRTY_BITMAP)
        self._knows_changes = False
        self._image = image
        self._threads = threads
        self._pins: Pins | None = pins

    def submit(self, requests: list[HostRequest], complete: Complete) -> None:
        """Start all requests: one hop to a thread for as many as come together."""
        assert self._pins is not None, "a request after the release"
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
        # Only who asks for changes makes the point before cost room.
        if any(DIRTY_BITMAP in request.contexts for request in blocking):
            self._knows_changes = self._pins.hold_before()

        def done(_: None, error: BaseException | None) -> None:
            for request in blocking:
                if error is not None and request.data is None:
                    request.error = errno.EIO
            complete(blocking)

        self._threads.submit(lambda: self._serve(blocking), done)

    def _serve(self, requests: list[HostRequest]) -> None:
        for request in requests:
            try:
                request.data = self._answer(request)
            except StorageError as error:
                request.error = error.errno
            except FarshoreError:
                request.error = errno.EIO

    def _answer(self, request: HostRequest) -> object:
        image, offset, length = self._image, request.offset, request.length
        if request.command == HostCommand.BLOCK_STATUS:
            return [
                image.status(offset, length)
                if name == BASE_ALLOCATION
                else self._changed(offset, length)
                for name in request.contexts
            ]
        if request.sparse_ok and length >= SPARSE_READ_BYTES_MIN:
            return image.read_runs(offset, length)
        return image.read(offset, length)

    def _changed(self, offset: int, length: int) -> Extents:
        """All of it, once the point before has gone: never less than has changed."""
        if not self._knows_changes:
            return [(length, DIRTY)]
        return self._image.changed(offset, length)

    def release(self) -> None:
        """Unpin the point; once."""
        if self._pins is not None:
            pins, self._pins = self._pins, None
            pins.release()
