"""What a receiving group says of itself to the control socket."""

from __future__ import annotations

from common.service.link_status import connected
from common.service.role_status import role_change
from common.service.status import (
    AlarmStatus,
    GroupRole,
    GroupState,
    GroupStatus,
    HistoryStatus,
    LinkState,
    LinkStatus,
    PointStatus,
    RecoveryPointStatus,
    RoleChangeStatus,
    RoleStep,
    TotalsStatus,
    VolumeStatus,
    age_seconds,
)
from remote_site.group import ReceivingGroup


def group_status(group: ReceivingGroup, now_ns: int) -> GroupStatus:
    """Return a snapshot. What only the sending site knows is None."""
    store = group.store
    newest = store.points[-1] if store.points else None
    point = None
    if newest is not None:
        point = RecoveryPointStatus(
            number=newest.number,
            cut_ns=newest.cut_ns,
            current_as_of_ns=newest.current_as_of_ns,
            label=newest.label,
        )
    lineage = store.lineage
    return GroupStatus(
        name=group.name,
        role=GroupRole.RECEIVING,
        state=_state(group),
        lineage=lineage.hex() if lineage else None,
        cycle_number=_cycle_number(group),
        recovery_point=point,
        recovery_point_age_seconds=(
            age_seconds(newest.current_as_of_ns, now_ns) if newest else None
        ),
        link=_link(group),
        volumes=tuple(
            VolumeStatus(
                name=offer.name,
                size_bytes=offer.size_bytes,
                track_bytes=offer.track_bytes,
                joining=member.is_joining,
            )
            for offer, member in store.enrolled
            if not member.has_left
        ),
        progress=group.scrubbing.progress(),
        last_scrub=group.scrubbing.last,
        test_copies=(
            tuple(copy.name for copy in group.test_copies.all)
            if group.test_copies is not None
            else ()
        ),
        last_drill=(
            group.drills.all[-1].summary()
            if group.drills is not None and group.drills.all
            else None
        ),
        totals=TotalsStatus(
            cycles_committed=group.commits,
            commit_seconds=group.commit_times.status(),
        ),
        history=_history(group),
        role_change=_role_change(group),
        alarms=tuple(
            AlarmStatus(name=name, message=message, since_ns=since_ns)
            for name, (message, since_ns) in group.alarms.items()
        ),
    )


def _history(group: ReceivingGroup) -> HistoryStatus:
    store = group.store
    return HistoryStatus(
        points=len(store.points),
        journal_bytes=store.journal_bytes,
        journal_limit_bytes=group.config.journal.limit_bytes,
        oldest_cut_ns=store.points[0].cut_ns if store.points else None,
        kept=sum(point.is_kept for point in store.points),
        forks=len(store.forks),
        retain=tuple(str(rule) for rule in group.config.retain),
    )


def _role_change(group: ReceivingGroup) -> RoleChangeStatus | None:
    store = group.store
    if store.takeover is not None:
        return role_change(RoleStep.TAKING_OVER, store.takeover.fork)
    if store.is_divided:
        fork = store.points[-1]
        return RoleChangeStatus(
            step=RoleStep.FAILING_BACK,
            point=fork.number,
            cut_ns=fork.cut_ns,
            lineage=store.lineage.hex() if store.lineage else None,
        )
    return None


def points(group: ReceivingGroup) -> list[PointStatus]:
    """Return the group's recovery points, newest first."""
    store = group.store
    return [
        PointStatus(
            number=point.number,
            cut_ns=point.cut_ns,
            current_as_of_ns=point.current_as_of_ns,
            label=point.label,
            size_bytes=store.point_bytes(point.number),
            pinned=store.is_pinned(point.number),
        )
        for point in reversed(store.points)
    ]


def _state(group: ReceivingGroup) -> GroupState:
    if group.store.failed is not None:
        return GroupState.FAILED
    if group.store.takeover is not None:
        return GroupState.TAKEN_OVER
    session = group.session
    if session is None or not session.is_open:
        return GroupState.DISCONNECTED
    if not group.store.points:
        return GroupState.FIRST_COPY
    return GroupState.DRAINING if session.receiver.cycle else GroupState.IDLE


def _cycle_number(group: ReceivingGroup) -> int | None:
    session = group.session
    if session is not None and session.receiver.cycle is not None:
        return session.receiver.cycle.cycle_number
    return group.store.points[-1].number if group.store.points else None


def _link(group: ReceivingGroup) -> LinkStatus:
    session, site = group.session, group.config.peer
    if session is not None and session.is_open:
        peers = connected(session.links, session.control_link)
        return LinkStatus(state=LinkState.CONNECTED, site=site, peers=peers)
    state = LinkState.REFUSED if group.is_refusing else LinkState.DOWN
    return LinkStatus(state=state, site=site)
