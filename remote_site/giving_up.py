"""A site that sent a group begins to receive it: what it had is kept, then overwritten.

Synchronous; everything may block and runs in threads.

The devices become a point as they are, so that whatever the other site sends is
preserved by the way that every track goes (`applier.py`): nothing is copied. After a
failback that point is a *fork*, kept until an operator deletes it; after a switchover
it is the point at which the group was handed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from common.errors import RefusedError
from common.replication.cycle_messages import RUNS_MAX
from common.replication.lineage import CycleName
from common.replication.session_messages import VolumeOffer
from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import PAGE_BITS, PAGE_BYTES, BitmapFile, page_of
from remote_site.enrolling import take_sent_members
from remote_site.group_disk import GroupDisk
from remote_site.growing import with_sender_sizes
from remote_site.store_state import (
    NO_LINEAGE,
    Divided,
    KeptFork,
    Point,
    StoreState,
)

CHANGED_SUFFIX = ".told"
"""Beside the record, a bitmap file a volume: what this site has changed itself."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """From whom a site receives that sent until now, and what its devices hold.

    `lineage`: what is received from now on. `point`: the devices as they are. If they
    hold anything that the other site does not have, that point is a fork of
    `own_lineage`; `common` is then the newest cycle that both have, None if nobody
    knows, and `changed` the tracks of each volume that may differ from it.
    """

    group_id: bytes
    lineage: bytes
    peer: str
    volumes: tuple[VolumeOffer, ...]
    point: Point
    is_fork: bool
    own_lineage: bytes
    common: CycleName | None
    changed: Mapping[str, Bitmap]


def begin_receiving(disk: GroupDisk, beginning: Beginning) -> None:
    """Receive from the other site from now on. No host writes to the devices any more.

    Order: the group bound in no lineage, if it never received, so that no sender is
    welcome; the volumes that have come and gone while this site sent
    (`take_sent_members`); the devices fdatasynced, and memory told to forget them; what
    has changed, durably; then the journals of the point, with the sizes that volumes
    have come to meanwhile, fdatasynced; and one record that names the point, the fork,
    the lineage, those sizes and the sizes of the points before: the first that a sender
    is welcome in. Their devices are as long already, by the sending role's own order.
    The crashes it defends against: tracks that overwrite what no point keeps; a point
    of what only memory has; a sender that is not told of all that differs; a point
    without what its volume had grown by; a device of a length that no record explains,
    for until that record it is the sending role's. Begun anew it goes the same way;
    done, it changes nothing.
    """
    if disk.state is None:
        disk.bind(beginning.group_id, NO_LINEAGE, beginning.peer, beginning.volumes)
    assert disk.state is not None
    if disk.state.lineage == beginning.lineage and disk.state.takeover is None:
        return
    take_sent_members(disk, beginning.volumes)
    _forget_memory(disk)
    if beginning.is_fork and beginning.common is not None:
        _write_changed(disk, beginning.changed)
    point = beginning.point
    divided = fork = None
    if beginning.is_fork:
        divided = Divided(point.number, beginning.common)
        fork = KeptFork(point.number, beginning.own_lineage, point.cut_ns)

    def begun(state: StoreState) -> StoreState:
        lineage, peer = beginning.lineage, beginning.peer
        received = state.received_from(lineage, peer, divided, fork)
        return with_sender_sizes(received, beginning.volumes)

    # What came while this site sent is here whole: this point is the first to have it.
    here = frozenset(range(len(disk.volumes)))
    disk.commit_point(
        point.number,
        point.cycle_id,
        point.cut_ns,
        point.label,
        begin=begun,
        whole=here,
    )
    with disk.record.lock:
        disk.make_current(disk.record.known(), point.current_as_of_ns)


def _forget_memory(disk: GroupDisk) -> None:
    """Have the devices show what the disk has: the point is made of that.

    After a flush that failed while this site sent memory may show what the disk has
    not, until it is asked again: a point would change under who reads it.
    """
    for volume in disk.volumes:
        volume.is_unsynced = True  # by the sending role, past this volume
        volume.datasync()
        volume.device.drop_cache()


def _write_changed(disk: GroupDisk, changed: Mapping[str, Bitmap]) -> None:
    """Write the bitmaps anew, durably; those of an earlier time count for nothing."""
    files, directory = disk.files, disk.settings.state_directory
    for volume in disk.members:
        path = _path(disk, volume.offer.name)
        if files.exists(path):
            files.remove(path)
        bitmap = changed[volume.offer.name]
        with closing(BitmapFile.open(files, path, bitmap.bit_count)) as stored:
            stored.save(dict(_pages(bitmap)))
            stored.datasync()
    disk.guard.sync_directory(files, directory)


def _pages(bitmap: Bitmap) -> Iterator[tuple[int, bytes]]:
    """Yield the pages that hold a set bit."""
    track = bitmap.next_set(0)
    while track < bitmap.bit_count:
        page = page_of(track)
        yield page, bytes(bitmap.data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
        end = (page + 1) * PAGE_BITS
        track = min(end, bitmap.bit_count)
        if track < bitmap.bit_count:
            track = bitmap.next_set(track)


def _path(disk: GroupDisk, volume: str) -> str:
    return f"{disk.settings.state_directory}/{volume}{CHANGED_SUFFIX}"


def told_changes(
    disk: GroupDisk, index: int, first: int
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return (runs, end) of what a volume holds otherwise than what is common.

    At most `RUNS_MAX` runs, which say all up to track `end`. None, and the whole
    volume, where a point came after what this site gave up.
    """
    volume = disk.volumes[index]
    tracks = volume.geometry.track_count
    state: StoreState | None = disk.state
    assert state is not None
    if state.memberships[index].is_joining:
        return ((first, tracks - first),), tracks  # no point has it
    if not state.is_divided or state.committed is None:
        return (), tracks
    path = _path(disk, volume.offer.name)
    with closing(BitmapFile.open(disk.files, path, tracks)) as stored:
        bitmap = stored.load(when_damaged=True)
    runs: list[tuple[int, int]] = []
    while (first := bitmap.next_set(first)) < tracks and len(runs) < RUNS_MAX:
        end = bitmap.next_clear(first)
        runs.append((first, end - first))
        first = end
    return tuple(runs), min(first, tracks)


def delete_fork(disk: GroupDisk, number: int) -> None:
    """Keep a fork no longer; thinning gives its room back.

    Raises `RefusedError` where there is no such fork, or where the devices hold
    nothing else yet.
    """

    def deleted(state: StoreState) -> StoreState:
        left = tuple(fork for fork in state.forks if fork.number != number)
        if len(left) == len(state.forks):
            known = ", ".join(str(fork.number) for fork in state.forks) or "none"
            raise RefusedError(
                f"group {state.group} has no fork {number}; it has: {known}"
            )
        if state.is_divided and state.points[-1].number == number:
            raise RefusedError(
                f"group {state.group}: nothing was received since fork {number}: it is "
                "all that there is; wait for the first recovery point"
            )
        return replace(state, forks=left)

    disk.change(deleted)
