"""Pieces of a verify: read at the cut whose FlashCopy stands, and hashed."""

from __future__ import annotations

from collections.abc import Sequence

from common.ports import Buffer
from common.replication.hash_tree import (
    leaves_of,
    leaves_of_zeroes,
    root_of,
    root_of_zeroes,
)
from common.replication.lineage import CycleName
from common.replication.verify_messages import LEAVES_MAX
from common.storage.geometry import Geometry
from primary_site.cut_reader import CutReader, RelationEndedError
from primary_site.verify_plan import HOLE_BYTES_MAX, PIECE_BYTES_MAX, Piece, Span
from primary_site.volume import PrimaryVolume

HOLE_BYTES_MIN = 1 << 20
"""A shorter hole is read with what is around it."""


class PieceReader:
    """Reads for one verify, one piece at a time; on the group's loop.

    Pieces get smaller while cuts move on before one is read, and larger again.
    """

    def __init__(
        self, volumes: Sequence[PrimaryVolume], geometries: Sequence[Geometry]
    ) -> None:
        self.read_bytes = 0
        """Of the piece read last; a hole costs none."""
        self._volumes = volumes
        self._geometries = geometries
        self._data_until: dict[int, int] = {}
        """By volume: where a hole is worth looking for again, in bytes."""
        self._piece_bytes = PIECE_BYTES_MAX

    async def read(self, span: Span, cut: CycleName) -> tuple[Piece, Span | None]:
        """Read and hash the beginning of a span at the cut; return it and what is left.

        Raises `RelationEndedError`: the cut has moved on; and `StorageError`, with
        which the span's first `tracks_max` tracks can't be read.
        """
        volume = self._volumes[span.volume]
        standing = volume.preserver.standing()
        assert standing is not None
        self.read_bytes = 0
        try:
            found = await self._hashed(
                CutReader(volume, standing, once=True), span, cut
            )
        except RelationEndedError:
            # What is read at once has to fit in between two cuts.
            self._piece_bytes = max(self._piece_bytes // 2, 1)
            raise
        self._piece_bytes = min(self._piece_bytes * 2, PIECE_BYTES_MAX)
        return found

    def tracks_max(self, span: Span) -> int:
        """Return how many tracks of a span are read at once."""
        track_bytes = self._geometries[span.volume].track_bytes
        return min(max(self._piece_bytes // track_bytes, 1), span.count, LEAVES_MAX)

    def _bytes(self, span: Span, count: int) -> int:
        return self._geometries[span.volume].byte_range(span.first, count)[1]

    async def _hole(self, reader: CutReader, span: Span) -> int:
        """Return how many tracks of a span, from its first on, are a hole."""
        geometry = self._geometries[span.volume]
        tracks = min(HOLE_BYTES_MAX // geometry.track_bytes, span.count)
        offset, length = geometry.byte_range(span.first, tracks)
        if offset < self._data_until.get(span.volume, 0):
            return 0
        (told, is_hole), *_ = await reader.allocation(offset, length)
        if not is_hole or told < min(HOLE_BYTES_MIN, length):
            # Asking a file system for holes holds up who writes to the file.
            self._data_until[span.volume] = offset + told
            return 0
        return geometry.tracks(offset, told)[1]

    async def _hashed(
        self, reader: CutReader, span: Span, cut: CycleName
    ) -> tuple[Piece, Span | None]:
        """Read and hash the first piece of a span; return it and what is left."""
        run = reader.volume.threads.run
        zeroes = 0 if span.in_detail else await self._hole(reader, span)
        if zeroes:
            read, rest = span.split(zeroes)
            root = await run(root_of_zeroes, self._bytes(read, zeroes))
            return Piece(read, cut, root, None), rest
        count = self.tracks_max(span)
        read, rest = span.split(count)
        length = self._bytes(read, count)
        self.read_bytes = length
        (found,) = await reader.read([(read.first, count)])
        track_bytes = self._geometries[span.volume].track_bytes
        root, leaves = await run(
            _hashes, found.data, length, track_bytes if span.in_detail else None
        )
        return Piece(read, cut, root, leaves), rest


def _hashes(
    data: Buffer | None, length: int, track_bytes: int | None
) -> tuple[bytes, list[bytes] | None]:
    """In a thread: return a piece's root and, for a track size, its leaves."""
    if data is None:
        leaves = track_bytes and leaves_of_zeroes(length, track_bytes)
        return root_of_zeroes(length), leaves or None
    return root_of([data]), leaves_of(data, track_bytes) if track_bytes else None
