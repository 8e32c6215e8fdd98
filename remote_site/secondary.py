"""A secondary volume: the device that tracks are applied to, and its journals.

Synchronous; everything here may block and runs in threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from common.ports import Buffer, File
from common.replication.cycle_messages import HASH_BYTES
from common.replication.session_messages import VolumeOffer
from common.replication.tracks import track_hash
from common.storage.flush_guard import FlushGuard
from common.storage.geometry import Geometry
from common.storage.journal import Journal
from remote_site.leases import Leases

READ_BYTES_MAX = 1 << 20
"""Read from the device at once when comparing: bounds memory."""


class SecondaryVolume:
    """`lock` is held by whoever changes the device or the journals.

    `journals` is an immutable tuple, oldest first, replaced as a whole: readers in
    other threads take it once and look again. The last one is open.
    """

    def __init__(self, offer: VolumeOffer, device: File, guard: FlushGuard) -> None:
        self.offer = offer
        self.geometry = Geometry(offer.size_bytes, offer.track_bytes, offer.track_bytes)
        self.device = device
        self.guard = guard
        self.lock = threading.Lock()
        self.leases = Leases()
        self._flushing = threading.Lock()
        self.journals: tuple[Journal, ...] = ()
        self.is_unsynced = False
        """The device may hold writes that no fdatasync has covered."""

    def take_size(self, offer: VolumeOffer) -> None:
        """Be as large as the record says now; whoever calls it holds `lock`.

        Who reads a point meanwhile goes by the point's own size.
        """
        self.offer = offer
        self.geometry = Geometry(offer.size_bytes, offer.track_bytes, offer.track_bytes)

    def datasync(self) -> None:
        """Make durable every write that has returned.

        One at a time: whoever finds nothing unsynced must know that the flush that
        took care of it has ended, and how.
        """
        with self._flushing:
            self.guard.check()
            if self.is_unsynced:
                # Cleared first: a write that begins meanwhile sets it again.
                self.is_unsynced = False
                self.guard.datasync(self.device)

    def byte_extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield consecutive (offset, length, is_hole) of the device."""
        end = offset + length
        while offset < end:
            for size, is_hole in self.device.extents(offset, end - offset):
                assert size > 0
                yield offset, size, is_hole
                offset += size

    def track_extents(self, first: int, count: int) -> Iterator[tuple[int, int, bool]]:
        """Yield consecutive (first, count, is_hole); a hole has no byte of data."""
        track_bytes = self.geometry.track_bytes
        cursor = first
        for offset, size, is_hole in self.byte_extents(
            *self.geometry.byte_range(first, count)
        ):
            if not is_hole:
                continue
            start = -(-offset // track_bytes)
            end = (offset + size) // track_bytes
            if offset + size == self.geometry.size_bytes:
                end = self.geometry.track_count  # the last track may be cut
            if start < end:
                if cursor < start:
                    yield cursor, start - cursor, False
                yield start, end - start, True
                cursor = end
        if cursor < first + count:
            yield cursor, first + count - cursor, False

    def differing(
        self, first: int, count: int, hashes: Buffer
    ) -> list[tuple[int, int]]:
        """Return runs of tracks whose BLAKE2b-128 is not as in `hashes`."""
        expected = bytes(hashes)
        assert len(expected) == HASH_BYTES * count
        with self.lock:
            found: list[tuple[int, int]] = []
            for track, hashed in self._track_hashes(first, count):
                at = (track - first) * HASH_BYTES
                if hashed == expected[at : at + HASH_BYTES]:
                    continue
                if found and sum(found[-1]) == track:
                    found[-1] = (found[-1][0], found[-1][1] + 1)
                else:
                    found.append((track, 1))
            return found

    def _track_hashes(self, first: int, count: int) -> Iterator[tuple[int, bytes]]:
        geometry = self.geometry
        zeroes: dict[int, bytes] = {}
        step = max(1, READ_BYTES_MAX // geometry.track_bytes)
        for start, tracks, is_hole in self.track_extents(first, count):
            if is_hole:
                for track in range(start, start + tracks):
                    length = geometry.byte_range(track, 1)[1]
                    if length not in zeroes:
                        zeroes[length] = track_hash(bytes(length))
                    yield track, zeroes[length]
                continue
            for at in range(start, start + tracks, step):
                run = min(step, start + tracks - at)
                data = memoryview(self.device.read(*geometry.byte_range(at, run)))
                for i in range(run):
                    offset = i * geometry.track_bytes
                    yield (
                        at + i,
                        track_hash(data[offset : offset + geometry.track_bytes]),
                    )

    def close(self) -> None:
        for journal in self.journals:
            journal.close()
        self.device.close()
