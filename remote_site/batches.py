"""From queued TRACKS frames to what the store applies at once.

Pure, but takes milliseconds: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from common.replication.cycle_messages import COVERED_BYTES_MAX, Tracks
from common.replication.referenced import Held, decode_payload
from common.replication.tracks import TrackRecord
from remote_site.receiver import VolumeShape


@dataclass(slots=True)
class Group:
    """Records that are applied at once, and the frames that brought them.

    `refused`: frames that refer to what is not held here, each with its runs; they
    brought nothing.
    """

    records: list[TrackRecord] = field(default_factory=list)
    refused: list[tuple[Tracks, list[tuple[int, int]]]] = field(default_factory=list)
    frames: list[tuple[Tracks, list[TrackRecord]]] = field(default_factory=list)

    def add(self, frame: Tracks, records: list[TrackRecord]) -> None:
        self.records.extend(records)
        self.frames.append((frame, records))

    def frames_of(
        self, runs: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[Tracks, list[tuple[int, int]]]]:
        """Yield each frame that brought any of the runs, with these, ascending.

        The runs are of records; no track is in two of a group.
        """
        wanted = set(runs)
        for frame, records in self.frames:
            of_frame = {(each.first, each.count) for each in records} & wanted
            if of_frame:
                yield frame, sorted(of_frame)


def decode_batch(
    frames: Sequence[Tracks],
    shape: VolumeShape,
    *,
    delta: bool = False,
    held: Held | None = None,
) -> list[Group]:
    """Decode all frames, then gather their records into groups to apply in order.

    No track is twice in a group, and no group of several frames covers more than
    `COVERED_BYTES_MAX`. `held` reads the newest point, where references to it were
    agreed upon; it never changes, so that all may be decoded before any is applied.
    Raises `ProtocolError` before anything can be applied if one frame is malformed,
    and what `held` raises.
    """
    groups: list[Group] = []
    for frame in frames:
        decoded = decode_payload(
            frame.payload,
            frame.raw_bytes,
            shape.size_bytes,
            shape.track_bytes,
            delta=delta,
            held=held,
        )
        records = decoded.records
        if not (groups and _fits(groups[-1].records, records, shape.track_bytes)):
            groups.append(Group())
        if decoded.refused:
            groups[-1].refused.append((frame, decoded.refused))
        else:
            groups[-1].add(frame, records)
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
