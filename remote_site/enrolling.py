"""Volumes that come to a group, or leave it, at the site that receives it.

Synchronous; everything may block and runs in threads. `membership` decides;
docs/internals/membership.md walks through what a crash leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from common.errors import StateMismatchError
from common.replication.session_messages import VolumeOffer
from remote_site.group_disk import GroupDisk
from remote_site.member_transitions import with_members, with_returned
from remote_site.membership import Change, Membership, change_to
from remote_site.secondary import SecondaryVolume
from remote_site.secondary_device import make_devices, open_device
from remote_site.store_checks import check_offer
from remote_site.store_state import StoreState


def change_members(disk: GroupDisk, offered: Sequence[VolumeOffer]) -> Change:
    """Have a group the volumes that its sender has; called between two sessions.

    Order: devices of volumes that were added, made or looked at, fdatasynced, and their
    names; then one record with all volumes that are there and which points have them;
    only then are tracks of the new ones applied, and devices of those that no point has
    let go of. The crashes it defends against: a record that names a device which is not
    there; a point that is looked for in journals of a volume that it never had.

    A volume that leaves keeps device and journals for the points that have it. Raises
    what opening devices raises, and `StateMismatchError` where a name is taken; then
    nothing has changed but files made for devices.
    """
    state = disk.state
    assert state is not None, "bound before"
    change = _change(disk, state, offered)
    if not change:
        return change
    _check_names_free(state, change)
    new = tuple(offer for offer in offered if offer.name in change.added)
    with ExitStack() as undo:
        devices, created = make_devices(
            disk.files,
            disk.settings.devices,
            f"group {state.group!r}",
            new,
            disk.settings.accept_existing,
            disk.guard,
            undo,
        )
        opened = [
            SecondaryVolume(offer, device, disk.guard)
            for offer, device in zip(new, devices, strict=True)
        ]
        paths = disk.settings.devices
        disk.replace_volumes(
            lambda state: with_members(state, change, new, created, paths), opened
        )
        undo.pop_all()
    return change


def _change(
    disk: GroupDisk, state: StoreState, offered: Sequence[VolumeOffer]
) -> Change:
    points = [point.number for point in disk.points]
    return change_to(offered, state.volumes, state.memberships, points)


def take_sent_members(disk: GroupDisk, sent: Sequence[VolumeOffer]) -> None:
    """Have a group the volumes that it has come to while this site sent it.

    The sending role is closed, and the group is not received yet. Order: devices of
    volumes that came, open and locked; then one record with all volumes, in which those
    are joining: the point that the devices become is the first that has them
    (`giving_up.begin_receiving`). The crash it defends against: that point, and the
    first tracks of the other site, without a volume that the record does not name.
    Begun anew it finds nothing to do.

    Raises what opening devices raises; then nothing has changed.
    """
    assert disk.state is not None, "bound before"
    paths = disk.settings.devices
    check_offer(disk.settings.group, tuple(sent), paths)
    returned = with_returned(disk.state, sent)
    change = _change(disk, returned, sent)
    if not change and returned == disk.state:
        return
    _check_names_free(disk.state, change)
    new = tuple(offer for offer in sent if offer.name in change.added)
    with ExitStack() as undo:
        opened = []
        for offer in new:
            key = f"group {disk.settings.group!r}, volume {offer.name!r}"
            path = paths[offer.name]
            device = open_device(disk.files, path, offer.size_bytes, key, is_bound=True)
            undo.callback(device.close)
            opened.append(SecondaryVolume(offer, device, disk.guard))
            opened[-1].is_unsynced = True  # by the sending role, if that was killed
        created = (False,) * len(new)
        disk.replace_volumes(
            lambda state: with_members(
                with_returned(state, sent), change, new, created, paths
            ),
            opened,
        )
        undo.pop_all()


def _check_names_free(state: StoreState, change: Change) -> None:
    """Raise unless no volume that has left, and is kept, has the name of a new one."""
    for offer, member in zip(state.volumes, state.memberships, strict=True):
        if offer.name in change.added and offer.name not in change.forgotten:
            raise StateMismatchError(name_taken_text(state.group, offer.name, member))


def name_taken_text(group: str, name: str, member: Membership) -> str:
    """Say why a removed volume's name can't be given to another one yet."""
    return (
        f"{group}/{name} is the name of a volume that was removed, which recovery "
        f"points up to {member.last} still have: give the new one another name, or "
        "wait until group.retain has dropped those points"
    )
