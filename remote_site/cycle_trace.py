"""What the receiving site tells of a cycle in its trace."""

from __future__ import annotations

from dataclasses import dataclass

from common.replication.cycle_messages import CycleBegin
from common.service.cycle_trace import CycleTrace, in_turn


@dataclass(frozen=True, slots=True)
class ReceivedCycle:
    """A cycle that is committed, and what that took here.

    `began_ns`: when it began, by the wall clock; one that a lost session left under
    way begins anew with the next.
    """

    cycle: CycleBegin
    began_ns: int
    apply_seconds: float
    commit_seconds: float


def received_trace(group: str, received: ReceivedCycle) -> CycleTrace:
    """Return its times as parts of the trace that the sending site tells, too."""
    cycle = received.cycle
    return CycleTrace(
        cycle.cycle_id,
        {"farshore.group": group, "farshore.cycle.number": cycle.cycle_number},
        in_turn(
            received.began_ns,
            ("apply", received.apply_seconds),
            ("remote commit", received.commit_seconds),
        ),
    )
