"""What both sites say where both of them serve a group: since when, what to type."""

from __future__ import annotations

from common.replication.lineage import Fork
from common.service.moments import rfc3339

ALARM = "split_brain"


def split_brain_text(
    group: str, fork: Fork, other: bytes, *, is_forked_here: bool
) -> str:
    """Return the alarm.

    `fork`: of the site that took over, the one that says it if `is_forked_here`.
    `other`: the lineage that the other of the two serves.
    """
    taken = (
        f"{fork.lineage.hex()}, taken over at {rfc3339(fork.at_ns)} from lineage "
        f"{fork.parent.hex()} at point {fork.cycle.number}, cut at "
        f"{rfc3339(fork.cut_ns)}"
    )
    here, there = (taken, other.hex()) if is_forked_here else (other.hex(), taken)
    taker, keeper = ("this", "the other") if is_forked_here else ("the other", "this")
    asked = "at the other site" if is_forked_here else "here"
    giver = "here" if is_forked_here else "at the other site"
    return (
        f"split brain: group {group} is served by both sites, here in lineage {here}, "
        f"at the other site in {there}. Keep hosts away from one of the two. To keep "
        f"{taker} site's data: farshore failback {group} {asked}. To keep {keeper} "
        f"site's: farshore takeover {group} --force {asked}, then farshore failback "
        f"{group} {giver}. What is given up stays as a fork"
    )
