"""A volume that was added: its first copy goes in parts, one with each cycle.

Cycles of the group go on meanwhile, and each of its points is a cut of all volumes but
this one. What hosts write to it goes with every cycle; of its first copy each cycle
takes a part, the rest is held back. The cycle that takes the last part completes the
copy: all that the remote holds of the volume is then as at one cut, that of the group,
and the volume is in that point and in all later ones.

Pure but for `next_part`, which asks the device for its holes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from common.ports import File
from common.storage.bitmap import Bitmap
from common.storage.geometry import Geometry
from primary_site.group_state import COMPLETING, COPYING, GroupState

PART_BYTES_FIRST = 64 << 20
PART_BYTES_MIN = 16 << 20
PART_BYTES_MAX = 4 << 30
PART_SECONDS = 5.0
"""A part is what the link carries in so long: a cycle takes that much longer."""


def part_bytes(sent_bytes: int, seconds: float) -> int:
    """Return the data of the next part, by what a cycle put on the wire in its time."""
    if seconds <= 0:
        return PART_BYTES_FIRST
    by_rate = int(sent_bytes * PART_SECONDS / seconds)
    return max(PART_BYTES_MIN, min(by_rate, PART_BYTES_MAX))


def next_part(
    held_back: Bitmap, geometry: Geometry, device: File, limit_bytes: int
) -> tuple[Bitmap, Bitmap | None]:
    """Return (part, rest) of what is held back; the rest is None once all is taken.

    For a thread. A part has the first tracks, and `limit_bytes` of data or a track
    more; holes count for nothing.
    """
    tracks = geometry.track_count
    part = Bitmap(tracks)
    left = limit_bytes
    track = held_back.next_set(0)
    while track < tracks and left > 0:
        end = held_back.next_clear(track)
        offset, length = geometry.byte_range(track, end - track)
        for size, is_hole in device.extents(offset, length):
            size = min(size, offset + length - (track * geometry.track_bytes))
            taken = size if is_hole else min(size, left)
            stop = min(-(-(offset + taken) // geometry.track_bytes), end)
            if stop > track:
                part.set_range(track, stop - track)
                track = stop
            left -= 0 if is_hole else taken
            offset += size
            if left <= 0:
                break
        track = held_back.next_set(track)
    rest = held_back.copy()
    rest.subtract(part)
    return part, rest if rest.count else None


def all_taken(state: GroupState, names: Iterable[str]) -> GroupState:
    """Return the state once a cut has taken all there is of these volumes.

    From here on every cycle has all that the remote may lack of them: nothing is held
    back any more, also after a restart.
    """
    for name in names:
        saved = state.volumes[name]
        if saved.joining == COPYING:
            state = state.with_volume(name, replace(saved, joining=COMPLETING))
    return state


def all_joined(state: GroupState) -> GroupState:
    """Return the state once a point is known of the newest cycle that was begun."""
    for name, saved in state.volumes.items():
        if saved.joining == COMPLETING:
            state = state.with_volume(name, replace(saved, joining=None))
    return state
