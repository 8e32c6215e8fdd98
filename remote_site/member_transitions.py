"""A group's state as volumes come to it and leave it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from common.replication.session_messages import VolumeOffer
from remote_site.membership import ALWAYS, Change, Membership, change_to
from remote_site.store_state import Point, StoreState


def with_members(
    state: StoreState,
    change: Change,
    new: Sequence[VolumeOffer],
    created: Sequence[bool],
    devices: Mapping[str, str],
) -> StoreState:
    """Return the state with volumes that came, left and are forgotten. Pure."""
    newest = state.points[-1].number if state.points else 0
    members = [
        member.left(newest, devices[offer.name])
        if offer.name in change.removed
        else member
        for offer, member in zip(state.volumes, state.memberships, strict=True)
    ]
    state = without_volumes(replace(state, members=tuple(members)), change.forgotten)
    memberships = (*state.memberships, *(Membership(None) for _ in new))
    sizes = tuple(offer.size_bytes for offer in new)
    return replace(
        state,
        volumes=(*state.volumes, *new),
        created=(*state.created, *created),
        growing=(*state.growing, *(0 for _ in new)) if state.growing else (),
        points=tuple(_with_sizes(point, sizes) for point in state.points),
        members=memberships if any(m != ALWAYS for m in memberships) else (),
    )


def with_returned(state: StoreState, sent: Sequence[VolumeOffer]) -> StoreState:
    """Return the state with volumes back that were to leave, and are sent on. Pure.

    They were noted as leaving, and a crash came before the sending role recorded it. No
    point was made since without them.
    """
    ids = {offer.volume_id for offer in sent}
    members = tuple(
        replace(member, last=None, device="") if offer.volume_id in ids else member
        for offer, member in zip(state.volumes, state.memberships, strict=True)
    )
    return replace(state, members=members if any(m != ALWAYS for m in members) else ())


def with_leaving(
    state: StoreState, name: str, devices: Mapping[str, str]
) -> StoreState:
    """Return the state of a group that is sent here, which a volume leaves. Pure.

    The same state where the group has no such volume here: it came since.
    """
    newest = state.points[-1].number if state.points else 0
    return replace(
        state,
        members=tuple(
            member.left(newest, devices[name])
            if offer.name == name and not member.has_left
            else member
            for offer, member in zip(state.volumes, state.memberships, strict=True)
        ),
    )


def _with_sizes(point: Point, sizes: tuple[int, ...]) -> Point:
    """Return the point with a size, which never counts, of volumes it does not have."""
    return replace(point, sizes=(*point.sizes, *sizes)) if point.sizes else point


def without_volumes(state: StoreState, names: Sequence[str]) -> StoreState:
    """Return the state without these volumes, which no point has. Pure.

    And without what is said of points that are not there any more.
    """
    stay = [i for i, offer in enumerate(state.volumes) if offer.name not in names]
    oldest = state.points[0].number if state.points else 0
    members = tuple(_settled(state.memberships[i], oldest) for i in stay)
    return replace(
        state,
        volumes=tuple(state.volumes[i] for i in stay),
        created=tuple(state.created[i] for i in stay),
        growing=tuple(state.growing[i] for i in stay) if state.growing else (),
        points=tuple(
            replace(point, sizes=tuple(point.sizes[i] for i in stay))
            if point.sizes
            else point
            for point in state.points
        ),
        members=members if any(member != ALWAYS for member in members) else (),
    )


def _settled(member: Membership, oldest: int) -> Membership:
    if member.first is not None and member.first <= oldest:
        return replace(member, first=0)
    return member


def settled(state: StoreState) -> StoreState:
    """Return the state without volumes that have left and that no point has. Pure."""
    points = [point.number for point in state.points]
    change = change_to(state.current, state.volumes, state.memberships, points)
    return without_volumes(state, change.forgotten)


def without_joining(state: StoreState) -> StoreState:
    """Return the state of a group that goes on here: what no point has stays out."""
    joining = [
        offer.name
        for offer, member in zip(state.volumes, state.memberships, strict=True)
        if member.is_joining
    ]
    return without_volumes(state, joining)


def with_joined(state: StoreState, number: int, whole: frozenset[int]) -> StoreState:
    """Return the state once point `number` is made of a cycle. Pure.

    `whole`: indexes of volumes whose first copy the cycle completes, if they join.
    """
    members = tuple(
        member.joined(number) if member.is_joining and index in whole else member
        for index, member in enumerate(state.memberships)
    )
    return state if members == state.memberships else replace(state, members=members)
