"""A sending group's status: a snapshot, apart from the live objects."""

from __future__ import annotations

from collections.abc import Sequence

from common.ports import Clock
from common.service.link_status import connected
from common.service.role_status import role_change
from common.service.status import (
    AlarmStatus,
    ForecastStatus,
    GroupRole,
    GroupState,
    GroupStatus,
    LastCycleStatus,
    LinkState,
    LinkStatus,
    PeerStatus,
    PointStatus,
    ProgressStatus,
    RecoveryPointStatus,
    RoleChangeStatus,
    RoleStep,
    VolumeStatus,
    age_seconds,
)
from primary_site.cycle_figures import LastCycle, changed_bytes, out_of_sync_bytes
from primary_site.replicator import Replicator
from primary_site.session import SendingSession
from primary_site.volume import PrimaryVolume


def group_status(replicator: Replicator, clock: Clock) -> GroupStatus:
    """Return what `farshore status` shows of one group."""
    group, state = replicator.group, replicator.group.state
    session, last = replicator.session, replicator.cycles.last_cycle
    point = recovery_point(replicator)
    return GroupStatus(
        name=group.name,
        role=GroupRole.SENDING,
        state=group_state(replicator),
        lineage=state.lineage.hex(),
        cycle_number=state.cycle_number,
        recovery_point=point,
        recovery_point_age_seconds=(
            age_seconds(point.current_as_of_ns, clock.now_ns()) if point else None
        ),
        link=LinkStatus(
            state=LinkState(replicator.link_state),
            site=group.config.link.peer,
            peers=_peers(session) if session else (),
            rate_bytes_per_second=replicator.pacing.rate,
            session_sent_bytes=session.sent_bytes if session else None,
        ),
        changed_bytes=changed_bytes(replicator.group),
        out_of_sync_bytes=out_of_sync_bytes(replicator.group),
        last_cycle=_last_cycle(last) if last else None,
        volumes=tuple(
            VolumeStatus(
                name=volume.name,
                size_bytes=volume.size_bytes,
                track_bytes=volume.geometry.track_bytes,
                joining=state.volumes[volume.name].joining is not None,
            )
            for volume in group.volumes
        ),
        progress=progress(replicator, clock) or replicator.verifying.progress(),
        last_verify=replicator.verifying.last,
        forecast=_forecast(replicator),
        totals=replicator.cycles.totals.status(replicator.group.holds),
        role_change=_role_change(replicator),
        alarms=tuple(
            AlarmStatus(name=a.name, message=a.message, since_ns=a.since_ns)
            for a in replicator.alarms.all()
        ),
    )


def _peers(session: SendingSession) -> tuple[PeerStatus, ...]:
    """Return the connections that live, and those that are being made again."""
    missing = (
        PeerStatus(address=address, state=LinkState.CONNECTING)
        for address in session.missing
    )
    return (*connected(session.links, session.control_link), *missing)


def _role_change(replicator: Replicator) -> RoleChangeStatus | None:
    state = replicator.group.state
    if state.superseded is not None:
        return role_change(RoleStep.SUPERSEDED, state.superseded.fork)
    if state.handing is not None:
        return role_change(RoleStep.HANDING_OVER, state.handing)
    if replicator.switchover.is_under_way:
        return RoleChangeStatus(step=RoleStep.HANDING_OVER)
    return None


def _last_cycle(last: LastCycle) -> LastCycleStatus:
    return LastCycleStatus(
        **{name: getattr(last, name) for name in LastCycleStatus.model_fields}
    )


def _forecast(replicator: Replicator) -> ForecastStatus | None:
    keeper = replicator.cycles.keeper
    seen = None if keeper is None else keeper.forecast
    if seen is None:
        return None
    return ForecastStatus(
        target_seconds=seen.target_seconds,
        promise=seen.promise.value,
        expected_age_seconds=round(seen.expected_age_seconds, 3),
        seconds_until_breach=seen.seconds_until_breach,
        cause=seen.cause,
        needed_bytes_per_second=seen.needed_bytes_per_second,
        measured_bytes_per_second=seen.measured_bytes_per_second,
    )


def group_state(replicator: Replicator) -> GroupState:
    group, state = replicator.group, replicator.group.state
    if group.failed is not None:
        return GroupState.FAILED
    if state.superseded is not None:
        return GroupState.SUPERSEDED
    if replicator.session is None:
        return GroupState.DISCONNECTED
    if any(volume.suspect for volume in state.volumes.values()):
        return GroupState.SUSPECT
    if state.committed_number is None:
        return GroupState.FIRST_COPY
    if group.cut is not None:
        return GroupState.DRAINING
    return GroupState.SUSPENDED if state.suspended else GroupState.IDLE


def recovery_point(replicator: Replicator) -> RecoveryPointStatus | None:
    state = replicator.group.state
    if state.committed_number is None or state.committed_cut_ns is None:
        return None
    return RecoveryPointStatus(
        number=state.committed_number,
        cut_ns=state.committed_cut_ns,
        current_as_of_ns=state.current_as_of_ns or state.committed_cut_ns,
        label=state.committed_label,
    )


def points(replicator: Replicator) -> list[PointStatus]:
    """The sending side knows the newest point; the receiving one has them all."""
    point = recovery_point(replicator)
    if point is None:
        return []
    return [
        PointStatus(
            number=point.number,
            cut_ns=point.cut_ns,
            current_as_of_ns=point.current_as_of_ns,
            label=point.label,
            size_bytes=0,
            here=False,
        )
    ]


def _joining_progress(volumes: Sequence[PrimaryVolume]) -> ProgressStatus:
    """Return how far the first copies have come of volumes that were added."""
    total = sum(volume.size_bytes for volume in volumes)
    left = sum(
        min(v.changes.out_of_sync_tracks() * v.geometry.track_bytes, v.size_bytes)
        for v in volumes
    )
    return ProgressStatus(
        operation="first_copy", done_bytes=total - left, total_bytes=total
    )


def progress(replicator: Replicator, clock: Clock) -> ProgressStatus | None:
    """Return how far the first copy, a full comparison, or the cycle that brings the
    remote back from what it wrote itself, has come."""
    group, cycles = replicator.group, replicator.cycles
    drain = cycles.drain
    joining = [v for v in group.volumes if group.state.volumes[v.name].joining]
    if joining:
        return _joining_progress(joining)
    if drain is None:
        return None
    if any(volume.changes.whole for volume in group.volumes):
        total = sum(volume.size_bytes for volume in group.volumes)
        done = total - out_of_sync_bytes(group)
        first = group.state.committed_number is None
        operation = "first_copy" if first else "compare"
    elif cycles.carries_told:
        total, done, operation = drain.size_bytes, drain.bytes_done, "failback"
    else:
        return None
    seconds = clock.monotonic() - cycles.drain_began
    eta = None
    if drain.bytes_done and seconds > 0:
        eta = (total - done) * seconds / drain.bytes_done
    return ProgressStatus(
        operation=operation,
        done_bytes=max(0, done),
        total_bytes=total,
        eta_seconds=eta,
    )
