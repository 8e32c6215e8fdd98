"""From queued TRACKS frames to what the store applies at once.

Pure, but takes milliseconds: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.replication.messages import COVERED_BYTES_MAX, Tracks
from common.replication.tracks import TrackRecord, decode_records
from remote_site.receiver import VolumeShape


def decode_batch(
    frames: Sequence[Tracks], shape: VolumeShape
) -> list[list[TrackRecord]]:
    """Decode all frames, then gather their records into groups to apply in order.

    No track is twice in a group, and no group of several frames covers more than
    `COVERED_BYTES_MAX`. Raises `ProtocolError` before anything can be applied if
    one frame is malformed.
    """
    groups: list[list[TrackRecord]] = []
    for frame in frames:
        records = decode_records(
            frame.payload, frame.raw_bytes, shape.size_bytes, shape.track_bytes
        )
        if groups and _fits(groups[-1], records, shape.track_bytes):
            groups[-1].extend(records)
        else:
            groups.append(records)
    return groups


def _fits(
    group: Sequence[TrackRecord], records: Sequence[TrackRecord], track_bytes: int
) -> bool:
    """Tell whether a frame's records may join a group.

    An honest sender never repeats a track within a cycle, but what a peer sends
    must not be able to make the store write one track twice in any order.
    """
    covered = end = 0
    runs = sorted((each.first, each.count) for each in (*group, *records))
    for first, count in runs:
        if first < end:
            return False
        end = first + count
        covered += count
    return covered * track_bytes <= COVERED_BYTES_MAX
