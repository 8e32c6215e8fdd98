"""What the sending site tells of a cycle in its trace."""

from __future__ import annotations

from common.service.cycle_trace import NANOSECONDS, CycleTrace, Span, in_turn
from primary_site.cycle_figures import LastCycle
from primary_site.group import Cut


def sent_trace(group: str, cut: Cut, last: LastCycle | None) -> CycleTrace | None:
    """Return the times of a cycle that is committed; None where they are not known.

    It was committed in a session before this one then, and what it took died with that.
    """
    if last is None or last.number != cut.number:
        return None
    began_ns = cut.cut_ns - round(cut.hold_seconds * NANOSECONDS)
    drain_seconds = last.drain_seconds - last.settle_seconds - last.commit_seconds
    parts = in_turn(
        began_ns,
        ("hold", cut.hold_seconds),
        ("settle", last.settle_seconds),
        ("drain", drain_seconds),
        ("commit", last.commit_seconds),
    )
    return CycleTrace(
        cut.cycle_id,
        {
            "farshore.group": group,
            "farshore.cycle.number": cut.number,
            "farshore.cycle.tracks": last.tracks,
            "farshore.cycle.changed_bytes": last.bytes_changed,
            "farshore.cycle.wire_bytes": last.bytes_on_wire,
        },
        parts,
        Span("cycle", began_ns, parts[-1].end_ns),
    )
