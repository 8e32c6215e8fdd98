"""What a verify has yet to compare, and what it has found. Pure.

A piece is a run of tracks of one volume, read at one cut. It is hashed while that
cut's FlashCopy stands, and asked about once that cut is the remote's newest point.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from common.replication.cycle_messages import COVERED_BYTES_MAX
from common.replication.hash_tree import differing
from common.replication.lineage import CycleName
from common.storage.bitmap import Bitmap
from common.storage.geometry import Geometry

PIECE_BYTES_MAX = 1 << 20
"""Read at once: a cut that ends its FlashCopy meanwhile costs no more than this, and
hosts' requests wait for the device behind no more."""

HOLE_BYTES_MAX = COVERED_BYTES_MAX
"""Of a hole, which is not read, a piece may be longer."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tracks of a volume that are still to be compared.

    `in_detail`: their roots have differed, so their leaves are to be at hand.
    """

    volume: int
    first: int
    count: int
    in_detail: bool = False

    def split(self, count: int) -> tuple[Span, Span | None]:
        """Return the first `count` tracks, and the rest if there is any."""
        if count == self.count:
            return self, None
        assert 0 < count < self.count
        rest = replace(self, first=self.first + count, count=self.count - count)
        return replace(self, count=count), rest


@dataclass(slots=True, eq=False)
class Piece:
    """A span read at the cut `cut`, with its leaves if they were asked for."""

    span: Span
    cut: CycleName
    root: bytes
    leaves: list[bytes] | None


class SpansToDo:
    """Spans that nobody reads now, ascending but for those that came back."""

    def __init__(self, geometries: Sequence[Geometry]) -> None:
        self._spans = deque(
            Span(volume, 0, geometry.track_count)
            for volume, geometry in enumerate(geometries)
        )

    def __bool__(self) -> bool:
        return bool(self._spans)

    def take(self) -> Span:
        """Take the next span, whole: what of it is not read goes back by `again`."""
        return self._spans.popleft()

    def again(self, span: Span) -> None:
        """Have a span read once more, or for the first time."""
        self._spans.appendleft(span)


@dataclass(slots=True)
class Unreadable:
    """Tracks that one of the sites could not read, and why."""

    volume: int
    first: int
    count: int
    reason: str


@dataclass(slots=True)
class Findings:
    """What has been compared, in bytes, and what is not equal, a bitmap a volume."""

    geometries: Sequence[Geometry]
    compared_bytes: int = 0
    pieces: int = 0
    pieces_again: int = 0
    bitmaps: dict[int, Bitmap] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)

    def note_equal(self, span: Span) -> None:
        self.pieces += 1
        self.compared_bytes += self._bytes(span)

    def note_differing(self, piece: Piece, theirs: Sequence[bytes]) -> None:
        """Note which tracks of a piece differ, by the leaves of both sides."""
        span = piece.span
        assert piece.leaves is not None
        runs = [(span.first, span.count)]
        if len(theirs) == span.count:
            runs = differing(span.first, piece.leaves, theirs) or runs
        bitmap = self.bitmaps.get(span.volume)
        if bitmap is None:
            tracks = self.geometries[span.volume].track_count
            bitmap = self.bitmaps[span.volume] = Bitmap(tracks)
        for run in runs:
            bitmap.set_range(*run)
        self.note_equal(span)

    def note_unreadable(self, span: Span, reason: str) -> None:
        self.unreadable.append(Unreadable(span.volume, span.first, span.count, reason))
        self.note_equal(span)

    def _bytes(self, span: Span) -> int:
        return self.geometries[span.volume].byte_range(span.first, span.count)[1]

    @property
    def total_bytes(self) -> int:
        return sum(geometry.size_bytes for geometry in self.geometries)

    @property
    def differing_bytes(self) -> int:
        return sum(
            self.geometries[volume].byte_range(*run)[1]
            for volume, bitmap in self.bitmaps.items()
            for run in bitmap.runs()
        )
