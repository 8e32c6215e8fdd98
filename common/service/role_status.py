"""What both sites tell of an exchange of their roles."""

from __future__ import annotations

from common.replication.lineage import Fork
from common.service.split_brain import ALARM as SPLIT_BRAIN
from common.service.status import GroupStatus, RoleChangeStatus, RoleStep


def role_change(step: RoleStep, fork: Fork) -> RoleChangeStatus:
    """Return where an exchange stands that began, or will begin, a line of data."""
    return RoleChangeStatus(
        step=step,
        point=fork.cycle.number,
        cut_ns=fork.cut_ns,
        at_ns=fork.at_ns,
        lineage=fork.lineage.hex(),
    )


def with_split_brain(status: GroupStatus) -> GroupStatus:
    """Return a status that says of two sites that serve what its alarm does."""
    if not any(alarm.name == SPLIT_BRAIN for alarm in status.alarms):
        return status
    change = RoleChangeStatus(step=RoleStep.SPLIT_BRAIN)
    return status.model_copy(update={"role_change": change})
