"""Tracks and regions of a volume whose size is no multiple of either."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.storage.geometry import (
    BITMAP_BYTES_MAX,
    TRACK_BYTES_MAX,
    Geometry,
    default_track_bytes,
)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    track = 1 << draw(st.integers(12, 20))
    region = track << draw(st.integers(0, 6))
    size = 512 * draw(st.integers(1, 40 * region // 512))
    return Geometry(size, track, region)


@given(geometries())
def test_tracks_and_regions_cover_the_volume_once(geometry: Geometry) -> None:
    covered = 0
    for region in range(geometry.region_count):
        first, count = geometry.region_tracks(region)
        offset, length = geometry.byte_range(first, count)
        assert (offset, count > 0) == (covered, True)
        covered += length
    assert covered == geometry.size_bytes
    assert sum(geometry.region_tracks(geometry.region_count - 1)) == (
        geometry.track_count
    )


@given(geometries(), st.data())
def test_a_byte_range_touches_the_tracks_that_hold_its_ends(
    geometry: Geometry, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(0, geometry.size_bytes - 1))
    length = data.draw(st.integers(1, geometry.size_bytes - offset))
    first, count = geometry.tracks(offset, length)
    start, size = geometry.byte_range(first, count)
    assert start <= offset
    assert offset + length <= start + size <= geometry.size_bytes
    assert geometry.byte_range(first, 1)[1] > offset - start
    last, _ = geometry.byte_range(first + count - 1, 1)
    assert last < offset + length


@given(st.integers(512, 1 << 50))
def test_the_default_track_is_the_smallest_that_keeps_the_bitmap_small(
    size: int,
) -> None:
    track = default_track_bytes(size)
    limit = 8 * BITMAP_BYTES_MAX
    assert size <= track * limit or track == TRACK_BYTES_MAX
    assert track == 4096 or size > track // 2 * limit


def test_a_tebibyte_has_tracks_of_4_kib_and_a_byte_more_has_not() -> None:
    assert default_track_bytes(1 << 40) == 4096
    assert default_track_bytes((1 << 40) + 512) == 8192
