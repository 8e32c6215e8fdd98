"""What a group's cycles cost, and what they still have to do, in bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from primary_site.group import ConsistencyGroup, Cut
from primary_site.volume import PrimaryVolume

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LastCycle:
    number: int
    hold_seconds: float
    drain_seconds: float
    tracks: int
    tracks_compared: int
    tracks_differenced: int
    """Sent as the difference to what the remote holds, those that are equal too."""
    tracks_refused: int
    """Of these, sent again whole: the remote held something else."""
    bytes_changed: int
    bytes_on_wire: int
    settle_seconds: float = 0.0
    """From the cut until the drain began, lost sessions between them included."""
    commit_seconds: float = 0.0
    """From the last track until the remote's answer."""


def changed_bytes(group: ConsistencyGroup) -> int:
    return _bytes(group, lambda v: v.changes.changed_tracks())


def out_of_sync_bytes(group: ConsistencyGroup) -> int:
    return _bytes(group, lambda v: v.changes.out_of_sync_tracks())


def cycle_bytes(group: ConsistencyGroup) -> int:
    return _bytes(group, lambda v: v.changes.pprc.count if v.changes.pprc else 0)


def _bytes(group: ConsistencyGroup, tracks: Callable[[PrimaryVolume], int]) -> int:
    return sum(
        min(tracks(v) * v.geometry.track_bytes, v.size_bytes) for v in group.volumes
    )


def log_commit(group: str, cut: Cut, last: LastCycle | None, now_ns: int) -> None:
    """Write the one line of a cycle that is complete."""
    if last is None or last.number != cut.number:
        log.info("cycle_committed", group=group, number=cut.number)
        return
    log.info(
        "cycle_committed",
        group=group,
        number=cut.number,
        hold_seconds=round(last.hold_seconds, 6),
        drain_seconds=round(last.drain_seconds, 3),
        tracks=last.tracks,
        tracks_compared=last.tracks_compared,
        tracks_differenced=last.tracks_differenced,
        tracks_refused=last.tracks_refused,
        bytes_changed=last.bytes_changed,
        bytes_on_wire=last.bytes_on_wire,
        age_seconds=round((now_ns - cut.cut_ns) / 1e9, 3),
    )
