"""A group whose remote has taken over: it refuses hosts' writes, and says so.

It learns of it from the remote's answer to a HELLO. Nothing is overwritten by that,
here or there: which side goes on is for an operator to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.replication.lineage import ToldFork
from common.service.moments import rfc3339

if TYPE_CHECKING:
    from primary_site.group import ConsistencyGroup

ALARM = "superseded"


def refuse_writes(group: ConsistencyGroup) -> None:
    """Take no write of a host from now on; those under way go on to their end."""
    for volume in group.volumes:
        volume.refuse_writes()


def follow_role(group: ConsistencyGroup) -> None:
    """Refuse writes where the group is another site's, or is about to be."""
    if group.state.superseded is not None or group.state.handing is not None:
        refuse_writes(group)


def allow_writes(group: ConsistencyGroup) -> None:
    for volume in group.volumes:
        volume.allow_writes()


def superseded_text(group: str, told: ToldFork) -> str:
    """Return the alarm of the old primary: what is, and what may be done."""
    fork = told.fork
    older = ""
    if not told.is_known:
        older = (
            " This site may be an older copy of itself, and not know all that it has "
            "changed: a failback compares every track."
        )
    return (
        f"the remote took over at {rfc3339(fork.at_ns)} from point "
        f"{fork.cycle.number}, cut at {rfc3339(fork.cut_ns)}, in lineage "
        f"{fork.lineage.hex()}; this site's is {fork.parent.hex()}. Hosts' writes are "
        f"refused here, reads are served, and nothing was overwritten.{older} "
        f"To receive the remote's data, and keep what this site alone has as a fork: "
        f"farshore failback {group}. To go on from this site's data instead: farshore "
        f"takeover {group} --force here, then farshore failback {group} there"
    )
