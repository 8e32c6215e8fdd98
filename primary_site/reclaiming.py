"""`farshore takeover --force` where this site is superseded: its own data count again.

The other site is superseded in turn as soon as it connects here; nothing is overwritten
at either before an operator says `farshore failback` there.
"""

from __future__ import annotations

from typing import Any

from common.errors import RefusedError
from common.replication.lineage import Fork, ToldFork
from common.service.moments import rfc3339
from common.service.takeover_status import TakeoverPlanStatus, TakeoverStatus
from primary_site.replicator import Replicator


async def reclaim_request(
    replicator: Replicator, *, action: str, point: int | None, force: bool
) -> dict[str, Any]:
    """Tell what it would do, or do it. Raises `RefusedError`."""
    name, switchover = replicator.group.name, replicator.switchover
    told = switchover.other
    if told is None:
        raise RefusedError(
            f"takeover: this site sends group {name!r}; run the command at the "
            "receiving site"
        )
    if point is not None:
        raise RefusedError(
            f"takeover: group {name!r} goes on here from what its devices hold; a "
            "point can be chosen at a site that receives"
        )
    if not force:
        raise RefusedError(
            f"takeover: group {name!r} is served by the other site, since "
            f"{rfc3339(told.fork.at_ns)}: farshore failback {name} receives its data; "
            "say --force to go on from this site's own data instead"
        )
    if action == "plan":
        return _plan(name, told).to_json()
    return _done(name, await switchover.reclaim()).to_json()


def _plan(name: str, told: ToldFork) -> TakeoverPlanStatus:
    fork = told.fork
    first = (
        f"takeover of {name} at a superseded site: hosts go on here from this site's "
        f"own data; what hosts wrote at the other site since {rfc3339(fork.at_ns)} is "
        "not there"
    )
    second = (
        "the other site is superseded as soon as it connects: its hosts' writes are "
        f"refused then; farshore failback {name} there brings it back in, and keeps "
        "what it alone has as a fork"
    )
    return TakeoverPlanStatus(
        group=name,
        point=fork.cycle.number,
        has_begun=False,
        sentences=(first, second),
    )


def _done(name: str, fork: Fork) -> TakeoverStatus:
    return TakeoverStatus(
        group=name,
        point=fork.cycle.number,
        lineage=fork.lineage.hex(),
        parent=fork.parent.hex(),
        cut_ns=fork.cut_ns,
        taken_over_ns=fork.at_ns,
        is_done=True,
        is_reclaimed=True,
    )
