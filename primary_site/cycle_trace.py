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
    drain_seconds = last.drain_seconds - last.settle_seconds - last.commit_seconds
    parts = in_turn(
        _began_ns(cut),
        ("hold", cut.hold_seconds),
        ("settle", last.settle_seconds),
        ("drain", drain_seconds),
        ("commit", last.commit_seconds),
    )
    return CycleTrace(
        cut.cycle_id,
        {
            **_named(group, cut),
            "farshore.cycle.tracks": last.tracks,
            "farshore.cycle.changed_bytes": last.bytes_changed,
            "farshore.cycle.wire_bytes": last.bytes_on_wire,
        },
        parts,
        _whole(parts),
    )


def given_up_trace(
    group: str, cut: Cut, why: str, seconds: float, drain_seconds: float | None
) -> CycleTrace:
    """Return the times of a cycle that makes no point, up to where it was given up.

    `seconds`: since the cut. `drain_seconds`: since its drain began, lost sessions
    included; None if it never did.
    """
    lengths = [("hold", cut.hold_seconds), ("settle", seconds - (drain_seconds or 0.0))]
    if drain_seconds is not None:
        lengths.append(("drain", drain_seconds))
    parts = in_turn(_began_ns(cut), *lengths)
    return CycleTrace(cut.cycle_id, _named(group, cut), parts, _whole(parts), why)


def _began_ns(cut: Cut) -> int:
    return cut.cut_ns - round(cut.hold_seconds * NANOSECONDS)


def _named(group: str, cut: Cut) -> dict[str, str | int | float]:
    return {"farshore.group": group, "farshore.cycle.number": cut.number}


def _whole(parts: tuple[Span, ...]) -> Span:
    return Span("cycle", parts[0].start_ns, parts[-1].end_ns)
