"""Sizes of a volume: bytes, tracks and regions, and the arithmetic between them.

Pure. Ranges are half-open (first, count) in tracks or regions, (offset, length)
in bytes. The last track and the last region may be cut at the volume's size.
"""

from __future__ import annotations

from dataclasses import dataclass

TRACK_BYTES_MIN = 4 << 10
TRACK_BYTES_MAX = 1 << 20
BITMAP_BYTES_MAX = 32 << 20
"""The default track keeps a bitmap within this: 4 KiB tracks up to 1 TiB."""

VOLUME_BYTES_MAX = 1 << 50
"""No volume is larger: every offset and count on disk and wire then fits."""

SECTOR_BYTES = 512


def default_track_bytes(size_bytes: int) -> int:
    """Return the smallest track that keeps a bitmap within `BITMAP_BYTES_MAX`."""
    track_bytes = TRACK_BYTES_MIN
    while track_bytes < TRACK_BYTES_MAX:
        if size_bytes <= track_bytes * 8 * BITMAP_BYTES_MAX:
            break
        track_bytes *= 2
    return track_bytes


@dataclass(frozen=True, slots=True)
class Geometry:
    """`size_bytes` a multiple of 512; track and region sizes powers of two."""

    size_bytes: int
    track_bytes: int
    region_bytes: int

    def __post_init__(self) -> None:
        assert 0 < self.size_bytes <= VOLUME_BYTES_MAX
        assert self.size_bytes % SECTOR_BYTES == 0
        assert self.track_bytes & (self.track_bytes - 1) == 0
        assert self.region_bytes & (self.region_bytes - 1) == 0
        assert TRACK_BYTES_MIN <= self.track_bytes <= self.region_bytes

    @property
    def track_count(self) -> int:
        return -(-self.size_bytes // self.track_bytes)

    @property
    def region_count(self) -> int:
        return -(-self.size_bytes // self.region_bytes)

    @property
    def tracks_per_region(self) -> int:
        return self.region_bytes // self.track_bytes

    def tracks(self, offset: int, length: int) -> tuple[int, int]:
        """Return (first, count) of the tracks that a byte range touches."""
        first = offset // self.track_bytes
        return first, (offset + length - 1) // self.track_bytes - first + 1

    def byte_range(self, first: int, count: int) -> tuple[int, int]:
        """Return (offset, length) of tracks, cut at the volume's size."""
        offset = first * self.track_bytes
        return offset, min(count * self.track_bytes, self.size_bytes - offset)

    def region_tracks(self, region: int) -> tuple[int, int]:
        """Return (first, count) of a region's tracks."""
        first = region * self.tracks_per_region
        return first, min(self.tracks_per_region, self.track_count - first)
