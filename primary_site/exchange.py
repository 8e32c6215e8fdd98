"""What a remote holds otherwise than the sender thinks: asked for, and carried.

A remote that sent the group itself before a failback has changed tracks that no bitmap
here knows of. It tells which, once a session, before the first cycle.
"""

from __future__ import annotations

import secrets

import structlog

from common.errors import ProtocolError
from common.replication.features import EXCHANGE
from common.replication.role_messages import Changed
from common.storage.bitmap import Bitmap
from common.storage.geometry import TRACK_BYTES_MIN, VOLUME_BYTES_MAX
from primary_site.group_cycles import GroupCycles
from primary_site.session import SendingSession
from primary_site.volume import PrimaryVolume

ANSWERS_MAX = VOLUME_BYTES_MAX // TRACK_BYTES_MIN
"""For one volume: each answer tells of a track at least."""

log = structlog.get_logger()


async def carry_told_changes(cycles: GroupCycles, session: SendingSession) -> None:
    """Carry what the remote says it has changed itself since the common point.

    No cycle is under way in this session, and none of another one that knows less goes
    on. Order: what was told is carried before a cycle is begun; nothing need be durable
    here, for it is told in every session until a point has been committed. The crash it
    defends against: a point of both sites' changes. All of a volume differs that no
    point of the remote has: so one that was a member here, and is none there, is
    compared whole before a point has it.
    """
    if EXCHANGE not in session.features:
        return
    group = cycles.group
    relation_id = session.welcome.receiver.relation_id
    numbers_up_to, told_tracks = 0, 0
    for index, volume in enumerate(group.volumes):
        bitmap, numbers = await _told(session, index, volume)
        numbers_up_to = max(numbers_up_to, numbers)
        if group.state.volumes[volume.name].joining:
            continue  # its first copy has all of it: see `joining.py`
        if bitmap.count == bitmap.bit_count:
            session.lacking.add(index)
        told_tracks += bitmap.count
        if bitmap.count and volume.changes.told_of != relation_id:
            if group.cut is not None:
                await cycles.abandon_here("the remote has changes of its own")
            # Much of it is what a killed sender only suspected: hashes go first.
            volume.changes.compare_again(bitmap)
        volume.changes.told_of = relation_id
    cut = group.cut
    if cut is not None and cut.number <= numbers_up_to:
        # Of a session with an older copy of the remote: this one never takes it.
        await cycles.abandon_here(f"the remote has used number {cut.number} itself")
    if numbers_up_to > group.state.cycle_number and group.cut is None:
        # Those numbers name something else there: they are spent here, too.
        await group.update(cycle_number=numbers_up_to, cycle_id=secrets.token_bytes(16))
    if numbers_up_to > (group.state.committed_number or 0):
        log.info("remote_told_changes", group=group.name, tracks=told_tracks)
        cycles.carries_told = True
        cycles.want_cut()


async def _told(
    session: SendingSession, index: int, volume: PrimaryVolume
) -> tuple[Bitmap, int]:
    """Return the tracks that the remote holds otherwise, and the numbers it used."""
    tracks = volume.geometry.track_count
    bitmap, first, numbers = Bitmap(tracks), 0, 0
    for _ in range(ANSWERS_MAX):
        answer = await session.ask_changed(index, first)
        _check(answer, index, first, tracks)
        for run in answer.runs:
            bitmap.set_range(*run)
        numbers = max(numbers, answer.numbers_up_to)
        first = answer.end
        if first == tracks:
            break
    return bitmap, numbers


def _check(answer: Changed, index: int, first: int, tracks: int) -> None:
    """Raise `ProtocolError` unless the answer goes on, within the volume."""
    if answer.volume != index or not first < answer.end <= tracks:
        raise ProtocolError("CHANGED goes back, or beyond its volume")
    for start, count in answer.runs:
        if start < first or not count or start + count > answer.end:
            raise ProtocolError("CHANGED names tracks beyond what it tells of")
        first = start + count
