"""A volume that grows while hosts use it: `farshore grow`.

    refuse        what can't be is refused before anything has changed
    intent        the record: the device may become so long
    room          pages of the durable bitmaps, for the tracks to come
    device        a file is extended sparse; a block device is that long already
    size          the record: the volume's size; what is new is carried
    serve         one step on the loop: geometry, bitmaps, exports

Each step is durable before the next begins; docs/internals/growing.md walks through
a crash between any two. A growth lies between two cuts (no cut stands meanwhile), so
that a cut has one size. It needs no hold: what is in flight has marked its tracks,
and those marks move on as carried ones.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import NoReturn

from common.errors import (
    ConnectionLostError,
    DeviceError,
    RefusedError,
    StorageError,
)
from common.replication.features import GROW
from common.replication.lineage import ID_BYTES
from common.storage.bitmap import Bitmap
from common.storage.extending import check_extendable, extend, forget_short_page
from common.storage.geometry import SECTOR_BYTES, VOLUME_BYTES_MAX, Geometry
from primary_site.changes import make_room, pages_with_bits, still_to_send
from primary_site.group import ConsistencyGroup
from primary_site.group_state import GroupState
from primary_site.session import SendingSession
from primary_site.volume import PrimaryVolume

FORGET_TRIES_MAX = 100
"""Each waits for an fdatasync."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What a volume's size was before, and is now."""

    volume: str
    before_bytes: int
    size_bytes: int


def find_volume(group: ConsistencyGroup, name: str) -> PrimaryVolume:
    """Return a volume by its name; raises `RefusedError`."""
    for volume in group.volumes:
        if volume.name == name:
            return volume
    known = ", ".join(volume.name for volume in group.volumes)
    raise RefusedError(f"group {group.name} has no volume {name!r}; it has: {known}")


def check_size(volume: PrimaryVolume, size_bytes: int) -> None:
    """Raise `RefusedError` for a size that no volume, or not this one, can have."""
    now = volume.geometry.size_bytes
    if size_bytes < now:
        raise RefusedError(
            f"{volume.name} has {now} bytes: it can't shrink to {size_bytes}"
        )
    if size_bytes % SECTOR_BYTES:
        raise RefusedError(
            f"{size_bytes} bytes: the size of a volume is a multiple of {SECTOR_BYTES}"
        )
    if size_bytes > VOLUME_BYTES_MAX:
        raise RefusedError(f"a volume has at most {VOLUME_BYTES_MAX} bytes")


async def tell_sizes(
    group: ConsistencyGroup, session: SendingSession, *, only_changed: bool
) -> None:
    """Have the remote follow what has grown, before the next cycle begins.

    In a new session, with `only_changed` unset, of every volume that ever grew: what
    the HELLO said of its size the remote may only take note of, and may be an older
    copy of itself.
    """
    grown: list[tuple[int, int, int]] = []
    for index, volume in enumerate(group.volumes):
        saved, size_bytes = group.state.volumes[volume.name], volume.size_bytes
        if session.sizes[index] != size_bytes or not only_changed:
            if saved.first_bytes is None or GROW not in session.features:
                _check_told(session.sizes[index], size_bytes)
                continue
            grown.append((index, saved.first_bytes, size_bytes))
    await session.resize(grown)


def check_volumes(group: ConsistencyGroup, session: SendingSession) -> None:
    """Raise `ConnectionLostError` if the session's HELLO had other volumes."""
    ids = [group.state.volumes[volume.name].volume_id for volume in group.volumes]
    if ids != session.volume_ids:
        raise ConnectionLostError("the group's volumes are others: a new session")


def _check_told(told_bytes: int, size_bytes: int) -> None:
    if told_bytes != size_bytes:
        raise ConnectionLostError("a volume has grown: the next session says so")


async def grow(
    group: ConsistencyGroup, volume: PrimaryVolume, size_bytes: int
) -> Growth:
    """Make a volume larger; it is served with the new size on return.

    The caller sees to it that no cut stands, and that none is taken meanwhile. Raises
    `RefusedError` where it can't be: then the volume is as it was.
    """
    check_size(volume, size_bytes)
    before = volume.geometry
    growth = Growth(volume.name, before.size_bytes, size_bytes)
    if size_bytes == before.size_bytes:
        return growth
    if group.failed is not None:
        raise RefusedError(f"group {group.name} has failed: {group.failed}")
    if group.state.superseded is not None or group.state.handing is not None:
        # What the other site takes over would have another size here.
        raise RefusedError(f"group {group.name} is given up here: nothing grows")
    if group.state.volumes[volume.name].joining:
        raise RefusedError(
            f"{volume.name} is joining the group: grow it once a recovery point has it"
        )
    assert group.cut is None, "between two cuts"
    geometry = replace(before, size_bytes=size_bytes)
    await _make_long_enough(group, volume, geometry)
    room = await volume.threads.run(make_room, volume.changes, geometry)
    volume.changes.whole = True  # before the record says so, which `tend` would end
    tag = secrets.token_bytes(ID_BYTES)
    await group.change(lambda state: _grown(state, growth, tag))
    assert group.cut is None, "between two cuts"
    group.remote_relation.retag_acked(tag)
    marked, acked = volume.grow(geometry, room)
    if acked.count:
        volume.changes.acked = await volume.threads.run(
            _still_acked, acked, marked, before, geometry
        )
        volume.heat.dirty_acked_pages |= pages_with_bits(volume.changes.acked)
    return growth


def _still_acked(
    acked: Bitmap, marked: Bitmap, before: Geometry, now: Geometry
) -> Bitmap:
    """Return what of the acked tracks the remote holds still. For a thread.

    Not what was marked; what hosts write from now on is in the FlashCopy bitmap, and
    the next cut takes it out. Nor the old last track, if it is longer now: the remote
    was sent a part of it.
    """
    kept = still_to_send(acked.extended(now.track_count), marked)
    if before.size_bytes % now.track_bytes:
        kept.clear_range(before.track_count - 1, 1)
    return kept


async def _make_long_enough(
    group: ConsistencyGroup, volume: PrimaryVolume, geometry: Geometry
) -> None:
    """Record the intent, then extend what lies on disk; undo the intent if it can't.

    Order: the intent, durable; room for the bitmaps' pages; the device. The crash it
    defends against: a device of a length that no record explains, which a start would
    have to take for another device.
    """
    size_bytes = geometry.size_bytes
    try:
        await volume.threads.run(check_extendable, volume.device, size_bytes)
    except DeviceError as error:
        raise RefusedError(str(error)) from error
    await group.change(lambda state: _growing(state, volume.name, size_bytes))
    try:
        await volume.heat.extend_durable(geometry)
        await volume.threads.run(extend, volume.device, size_bytes)
    except (DeviceError, StorageError) as error:
        await _stay_short(group, volume.name, str(error))
    await volume.flush()
    for _ in range(FORGET_TRIES_MAX):
        before_bytes = volume.size_bytes
        if await volume.threads.run(
            forget_short_page, volume.device, before_bytes, size_bytes
        ):
            return
        await volume.flush()  # hosts write to that very page
    await _stay_short(group, volume.name, "hosts write to its last page all the time")


async def _stay_short(group: ConsistencyGroup, name: str, why: str) -> NoReturn:
    """Take the intent back, and refuse."""
    if group.failed is None:
        await group.change(lambda state: _growing(state, name, None))
    raise RefusedError(f"{name} can't grow: {why}")


def _growing(state: GroupState, name: str, size_bytes: int | None) -> GroupState:
    saved = replace(state.volumes[name], growing_bytes=size_bytes)
    return state.with_volume(name, saved)


def _grown(state: GroupState, growth: Growth, tag: bytes) -> GroupState:
    """Durable acked bits of before count no more: the last track was shorter then."""
    saved = state.volumes[growth.volume].grown(growth.size_bytes)
    return replace(state.with_volume(growth.volume, saved), acked_tag=tag)
