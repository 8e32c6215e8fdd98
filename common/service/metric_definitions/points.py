"""Groups and their recovery points: what a disaster would cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from common.service.metric_definitions.metric import Labels, of_each, of_groups, one_of
from common.service.status import GroupRole, GroupState, GroupStatus, RoleStep


def _volumes(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    for volume in group.volumes:
        yield (volume.name,), volume.size_bytes


def _alarms(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    # One name may be told twice; a series is told once.
    for name in {alarm.name for alarm in group.alarms}:
        yield (name,), 1


POINT_METRICS: Final = (
    one_of(
        "farshore_group_role",
        "1 for what this site does with the group.",
        "role",
        GroupRole,
        "role",
    ),
    one_of(
        "farshore_group_state",
        "1 for the state that the group is in; docs/operating/monitor.md has them.",
        "state",
        GroupState,
        "state",
    ),
    one_of(
        "farshore_role_change",
        "1 for where an exchange of the sites' roles stands, once there was one.",
        "step",
        RoleStep,
        "role_change.step",
        when="role_change",
    ),
    of_each(
        "farshore_alarm",
        "1 for each alarm that stands; docs/operating/monitor.md has their names.",
        ("name",),
        _alarms,
    ),
    of_groups(
        "farshore_recovery_point_age_seconds",
        "How far the newest recovery point is behind now: what a disaster would cost.",
        "recovery_point_age_seconds",
    ),
    of_groups(
        "farshore_recovery_point_number",
        "Number of the newest recovery point.",
        "recovery_point.number",
    ),
    of_groups(
        "farshore_recovery_point_timestamp_seconds",
        "Up to when the newest recovery point is current, since 1970 in UTC.",
        "recovery_point.current_as_of_ns",
    ),
    of_groups(
        "farshore_recovery_points",
        "Recovery points kept.",
        "history.points",
        site="receiving",
    ),
    of_groups(
        "farshore_journal_bytes",
        "Bytes of the journals that recovery points are made of.",
        "history.journal_bytes",
        site="receiving",
    ),
    of_groups(
        "farshore_journal_limit_bytes",
        "What they may have, where `group.journal.limit` says so.",
        "history.journal_limit_bytes",
        site="receiving",
    ),
    of_groups(
        "farshore_oldest_recovery_point_timestamp_seconds",
        "When the oldest recovery point was cut, since 1970 in UTC.",
        "history.oldest_cut_ns",
        site="receiving",
    ),
    of_groups(
        "farshore_kept_recovery_points",
        "Recovery points that stay by an operator's word, whatever `retain` says.",
        "history.kept",
        site="receiving",
    ),
    of_groups(
        "farshore_forks",
        "Forks kept: what this site wrote, and gave up in a failback.",
        "history.forks",
        site="receiving",
    ),
    of_each("farshore_volume_size_bytes", "Size of a volume.", ("volume",), _volumes),
)
