"""What both sites tell of an exchange of their roles."""

from __future__ import annotations

from common.replication.lineage import Fork
from common.service.status import RoleChangeStatus, RoleStep


def role_change(step: RoleStep, fork: Fork) -> RoleChangeStatus:
    """Return where an exchange stands that began, or will begin, a line of data."""
    return RoleChangeStatus(
        step=step,
        point=fork.cycle.number,
        cut_ns=fork.cut_ns,
        at_ns=fork.at_ns,
        lineage=fork.lineage.hex(),
    )
