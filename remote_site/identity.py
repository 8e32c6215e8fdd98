"""What a remote tells of a group's primary, should that have lost its state."""

from __future__ import annotations

from common.errors import RefusedError
from common.service.group_identity import (
    CycleIdentity,
    GroupIdentity,
    PointIdentity,
    VolumeIdentity,
)
from remote_site.group import ReceivingGroup


def identity_of(group: ReceivingGroup) -> GroupIdentity:
    """Return it; raises `RefusedError` where no primary can need it."""
    store = group.store
    judged = store.judged
    if judged.group_id is None or judged.lineage is None or store.peer is None:
        raise RefusedError(f"group {group.name} was never bound to a primary")
    if store.takeover is not None:
        raise RefusedError(
            f"group {group.name} was taken over here: its old primary comes back by a "
            "failback"
        )
    if group.session is not None and group.session.is_open:
        raise RefusedError(
            f"the primary of group {group.name} is connected: it has lost nothing. "
            "Stop it first, for good"
        )
    newest = store.points[-1] if store.points else None
    begun = judged.begun
    return GroupIdentity(
        group=group.name,
        primary=store.peer,
        group_id=judged.group_id.hex(),
        lineage=judged.lineage.hex(),
        epoch=judged.shown_epoch,
        receipt=judged.shown.hex(),
        begun=None
        if begun is None
        else CycleIdentity(number=begun.number, id=begun.cycle_id.hex()),
        point=None
        if newest is None
        else PointIdentity(
            number=newest.number,
            id=newest.cycle_id.hex(),
            cut_ns=newest.cut_ns,
            current_as_of_ns=newest.current_as_of_ns,
            label=newest.label,
        ),
        volumes=tuple(
            VolumeIdentity(
                name=offer.name,
                id=offer.volume_id.hex(),
                size_bytes=offer.size_bytes,
                track_bytes=offer.track_bytes,
            )
            for offer in store.current
        ),
    )
