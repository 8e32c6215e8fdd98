"""A takeover on a group's storage: the intent, the way back to the point, the end.

Synchronous; everything may block and runs in threads. Each step may be repeated, and
is, by the next start, if anything cuts it short:

1. `intend`: from here on the group receives nothing more, whatever happens;
2. `roll_back`: every device holds the point again, newer points stay as they are;
3. what the group sends with is prepared (by whoever composes the sending role);
4. `finish`: hosts may write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from common.replication.cycle_messages import ZERO_BYTES_MAX, Encoding
from common.replication.lineage import CycleName, Fork
from common.replication.tracks import TrackRecord, run_hash
from common.storage.bitmap import Bitmap
from common.storage.zeroes import is_zero
from remote_site.applier import apply_tracks
from remote_site.bases import Run
from remote_site.group_disk import GroupDisk
from remote_site.member_transitions import without_joining
from remote_site.recovery_point import PointImage
from remote_site.secondary import SecondaryVolume
from remote_site.store_state import StoreState, Takeover
from remote_site.takeover_plan import check_has_all, check_same_point, chosen_point

STEP_BYTES = 4 << 20
"""Of a volume rolled back by one step: bounds memory, and how long a stop waits."""

WINDOW_TRACKS = 1 << 16
"""Of which a journal's entries are looked up at once: bounds memory."""


def intend(disk: GroupDisk, number: int | None, lineage: bytes, at_ns: int) -> Takeover:
    """Decide, durably, to take over from a point (the newest when None).

    No session may be open, and no thread of one may run any more. Order: the record
    with the point and the new lineage, fdatasync; only then is anything rolled back,
    and anything said of it. The crash it defends against: a device between two points
    that is received into again, in the lineage of the sender.

    A volume that no point has, because its first copy is under way, stays out of it;
    its device is let go of as it is. Raises `RefusedError` where there is no such
    point, or where it lacks a volume of the group; then nothing has changed.
    """

    def intended(state: StoreState) -> StoreState:
        if state.takeover is not None:
            check_same_point(state.group, state.takeover, number)
            return state
        point = chosen_point(state.group, state.points, number)
        check_has_all(state, point)
        fork = Fork(
            lineage,
            state.lineage,
            CycleName(point.number, point.cycle_id),
            point.cut_ns,
            at_ns,
        )
        return replace(without_joining(state), takeover=Takeover(fork))

    disk.replace_volumes(intended)
    assert disk.state is not None
    takeover = disk.state.takeover
    assert takeover is not None
    return takeover


def roll_back(volumes: Sequence[SecondaryVolume], number: int) -> Iterator[int]:
    """Have the devices hold point `number`, step by step; yield the bytes of each step.

    Order: what a step overwrites is preserved for newer points first, as of every
    track that is applied (`apply_tracks`), and the devices are fdatasynced at the end,
    before the last step returns. The crash it defends against: newer points that are
    no longer what they were; an end that is recorded of a device that is not there.

    Begun anew it goes the same way: a track that is in a journal from the point on
    stays in it, and what it held at the point is there. What is as it should be
    already is only read.
    """
    for volume in volumes:
        image = PointImage(volume, number)
        for first, count in overwritten_since(volume, number):
            yield from _restored(volume, image, first, count)
    for volume in volumes:
        volume.datasync()


def rolled_back_bytes(volumes: Sequence[SecondaryVolume], number: int) -> int:
    """Return how many bytes `roll_back` will yield in all."""
    return sum(
        volume.geometry.byte_range(first, count)[1]
        for volume in volumes
        for first, count in overwritten_since(volume, number)
    )


def _restored(
    volume: SecondaryVolume, image: PointImage, first: int, count: int
) -> Iterator[int]:
    track_bytes = volume.geometry.track_bytes
    known = image.geometry.track_count
    end = first + count
    while first < end:
        # What the volume has grown by since is no part of the point: zeroes.
        limit = STEP_BYTES if first < known else ZERO_BYTES_MAX
        stop = min(end, first + max(1, limit // track_bytes))
        if first < known < stop:
            stop = known
        size = volume.geometry.byte_range(first, stop - first)[1]
        _restore(volume, image, first, stop - first)
        yield size
        first = stop


def _restore(
    volume: SecondaryVolume, image: PointImage, first: int, count: int
) -> None:
    offset, length = volume.geometry.byte_range(first, count)
    data: bytearray | None = None
    if first < image.geometry.track_count:
        known_bytes = min(length, image.geometry.size_bytes - offset)
        data = image.read(offset, known_bytes)
        data.extend(bytes(length - known_bytes))
        if volume.device.read(offset, length) == data:
            return
    if data is None or is_zero(data):
        record = TrackRecord(first, count, Encoding.ZERO, None, bytes(16))
    else:
        view = memoryview(data)
        record = TrackRecord(first, count, Encoding.RAW, view, run_hash(view))
    refused = apply_tracks(volume, [record])
    assert not refused, "whole tracks need no base"


def overwritten_since(volume: SecondaryVolume, number: int) -> Iterator[Run]:
    """Yield the runs of tracks, ascending, that may differ from point `number`.

    Those with an entry in a journal from that point on, and what the volume has grown
    by since. The same runs before, during and after `roll_back`.
    """
    journals = [j for j in volume.journals if j.header.point_number >= number]
    known = journals[0].header.track_count
    for start in range(0, known, WINDOW_TRACKS):
        size = min(WINDOW_TRACKS, known - start)
        window = Bitmap(size)
        for journal in journals:
            for first, count, _ in journal.find(start, size):
                low, high = max(first, start), min(first + count, start + size)
                window.set_range(low - start, high - low)
        yield from ((start + first, count) for first, count in window.runs())
    if known < volume.geometry.track_count:
        yield known, volume.geometry.track_count - known


def carried(volume: SecondaryVolume, number: int) -> Bitmap:
    """Return the tracks that a former sender at this point may have otherwise."""
    bitmap = Bitmap(volume.geometry.track_count)
    for first, count in overwritten_since(volume, number):
        bitmap.set_range(first, count)
    return bitmap


def finish(disk: GroupDisk) -> None:
    """Record that hosts may write.

    Order: the devices rolled back and fdatasynced, and what the group sends with
    prepared, whole and durable; then this record. The crash it defends against: hosts
    that write to a device which the next start rolls back once more.
    """

    def finished(state: StoreState) -> StoreState:
        assert state.takeover is not None, "intended before"
        return replace(state, takeover=replace(state.takeover, is_done=True))

    disk.change(finished)
