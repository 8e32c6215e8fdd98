"""Volumes of a group that this site sends, and has points of: they come, and leave.

The store's record follows once the site gives the group up (`enrolling.py`
`take_sent_members`). Until then only a volume that leaves is written down: its points
need its device, and nothing else names it from then on.
"""

from __future__ import annotations

from common.errors import RefusedError
from common.service.config_primary import PrimaryVolume
from remote_site.enrolling import name_taken_text
from remote_site.group_disk import GroupDisk
from remote_site.member_transitions import with_leaving
from remote_site.store_state import StoreState


def note_leaving(disk: GroupDisk, name: str) -> None:
    """Keep where the device of a volume is, which leaves a group that is sent here.

    Its points need it, and no config will name it. Before the sending role's record is
    without it: hosts may write to it until then, and what they overwrite is preserved
    as before. A crash in between leaves it in the group: see `with_returned`.
    """
    assert disk.state is not None, "it was received before"
    if any(offer.name == name for offer in disk.state.current):
        paths = disk.settings.devices
        disk.change(lambda state: with_leaving(state, name, paths))


def why_not_free(state: StoreState, name: str, device: str) -> str:
    """Return why a volume of this name, or on this device, can't come; empty: it can.

    Of a group that this site sends, and has received. Pure.
    """
    for offer, member in zip(state.volumes, state.memberships, strict=True):
        if not member.has_left:
            continue
        if offer.name == name:
            return name_taken_text(state.group, name, member)
        if member.device == device:
            return (
                f"{device} is the device of {state.group}/{offer.name}, which was "
                f"removed: recovery points up to {member.last} read it here; give the "
                "new volume another device, or wait until group.retain has dropped "
                "those points and restart this daemon"
            )
    return ""


class KeptVolumes:
    """What the sending role asks before volumes change: `points_here.PointsHere`."""

    def __init__(self, disk: GroupDisk) -> None:
        self._disk = disk

    def check_free(self, volume: PrimaryVolume) -> None:
        """Raise `RefusedError` where points need this volume's name, or its device."""
        state = self._disk.state
        assert state is not None, "it was received before"
        if why_not := why_not_free(state, volume.name, volume.device):
            raise RefusedError(why_not)

    def leaves(self, name: str) -> None:
        """Keep where a volume's device is, durably; in a thread."""
        note_leaving(self._disk, name)
