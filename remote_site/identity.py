"""What a site tells of a group to the other one, should that have lost its state.

The receiving site tells who the primary is. One that has taken the group over tells
what it serves: the other one, or a new site in its place, is to receive that.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.errors import RefusedError
from common.replication.lineage import NO_ID, CycleName, Fork
from common.replication.session_messages import VolumeOffer
from common.service.group_identity import (
    CycleIdentity,
    GroupIdentity,
    PointIdentity,
    ServedIdentity,
    VolumeIdentity,
)
from remote_site.group import ReceivingGroup
from remote_site.sender_here import SenderHere


def identity_of(group: ReceivingGroup) -> GroupIdentity:
    """Return it; raises `RefusedError` where no primary can need it."""
    store = group.store
    judged = store.judged
    if judged.group_id is None or judged.lineage is None or store.peer is None:
        raise RefusedError(f"group {group.name} was never bound to a primary")
    if store.takeover is not None:
        raise RefusedError(f"group {group.name} is being taken over; ask again then")
    if group.session is not None and group.session.is_open:
        raise _nothing_lost(group.name)
    newest = store.points[-1] if store.points else None
    return GroupIdentity(
        group=group.name,
        primary=store.peer,
        group_id=judged.group_id.hex(),
        lineage=judged.lineage.hex(),
        epoch=judged.shown_epoch,
        receipt=judged.shown.hex(),
        begun=_cycle(judged.begun),
        point=None
        if newest is None
        else PointIdentity(
            number=newest.number,
            id=newest.cycle_id.hex(),
            cut_ns=newest.cut_ns,
            current_as_of_ns=newest.current_as_of_ns,
            label=newest.label,
        ),
        volumes=_volumes(store.current),
    )


def served_identity(
    here: SenderHere,
    peer: str,
    newest: CycleName,
    volumes: Iterable[VolumeOffer],
    *,
    is_connected: bool,
) -> GroupIdentity:
    """Return what `peer` is to receive from here. Raises `RefusedError` if nothing.

    `newest`: the newest cycle ever begun here. A line that this site has gone on with
    since it took over is told with where it took over: of what came between, whoever
    has lost its state knows nothing.
    """
    if here.taken is None:
        raise RefusedError(
            f"group {here.group} is sent by this site, which never took it over: a "
            "receiving site that has lost its state needs no identity; have it accept "
            "its devices (group.volume.accept_existing), and start it"
        )
    if here.superseded is not None or here.handing is not None:
        raise RefusedError(
            f"group {here.group} is served by the other site, or handed to it: choose "
            "a side first; see farshore status"
        )
    if is_connected:
        raise _nothing_lost(here.group)
    return GroupIdentity(
        group=here.group,
        primary=peer,
        group_id=here.group_id.hex(),
        lineage=here.lineage.hex(),
        epoch=0,
        receipt=NO_ID.hex(),
        begun=_cycle(newest),
        point=None,
        volumes=_volumes(volumes),
        served=_served(here.taken, here.lineage),
    )


def _served(taken: Fork, lineage: bytes) -> ServedIdentity:
    return ServedIdentity(
        lineage=lineage.hex(),
        parent=taken.parent.hex(),
        point=CycleIdentity(number=taken.cycle.number, id=taken.cycle.cycle_id.hex()),
        cut_ns=taken.cut_ns,
        at_ns=taken.at_ns,
    )


def _cycle(cycle: CycleName | None) -> CycleIdentity | None:
    if cycle is None:
        return None
    return CycleIdentity(number=cycle.number, id=cycle.cycle_id.hex())


def _volumes(offers: Iterable[VolumeOffer]) -> tuple[VolumeIdentity, ...]:
    return tuple(
        VolumeIdentity(
            name=offer.name,
            id=offer.volume_id.hex(),
            size_bytes=offer.size_bytes,
            track_bytes=offer.track_bytes,
        )
        for offer in offers
    )


def _nothing_lost(group: str) -> RefusedError:
    return RefusedError(
        f"the other site of group {group} is connected: it has lost nothing. Stop it "
        "first, for good"
    )
