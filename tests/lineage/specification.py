"""A second reading of docs/internals/lineage.md: which of its rules two states meet.

Plain values, no product code: cycles are (number, id) or None, ids any values that can
be compared. The names are those of the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Cycle = tuple[int, str] | None

LAST_REFUSAL = 10
"""Lines up to this one say that nothing may be sent."""


@dataclass(frozen=True, slots=True)
class Primary:
    group: str
    lineage: str
    epoch: int
    receipt: str
    newest: Cycle
    committed: Cycle
    relation: str
    progress: int


@dataclass(frozen=True, slots=True)
class Remote:
    group: str | None
    lineage: str | None
    shown_epoch: int
    shown: str
    offered: str
    begun: Cycle
    committed: Cycle
    known: bool
    relation: str
    progress: int
    taken_from: str | None = None
    """P'' of the page: the lineage that it took over from."""


def rule(p: Primary, r: Remote) -> int:
    """Return the number of the first line of the page's table that applies."""
    stranger = p.receipt != r.shown and p.receipt != r.offered
    met, at_hand = (r.shown_epoch, r.shown), (p.epoch, p.receipt)
    later = at_hand[0] > met[0] and at_hand[1] != met[1]
    height = {
        name: cycle[0] if cycle else 0
        for name, cycle in (
            ("N", p.newest),
            ("C", p.committed),
            ("B'", r.begun),
            ("C'", r.committed),
        )
    }
    unanswered = r.committed is not None and r.committed == p.newest != p.committed
    lines: list[tuple[int, Any]] = [
        (1, r.group is not None and r.group != p.group),
        (2, r.taken_from is not None and p.lineage == r.taken_from),
        (3, r.taken_from is not None),
        (4, r.lineage is not None and r.lineage != p.lineage),
        (5, at_hand != met and not later),
        (6, height["B'"] > height["N"]),
        (7, height["C'"] > height["N"]),
        (8, unanswered and r.known),
        (9, r.begun and p.newest and r.begun[0] == p.newest[0] and r.begun != p.newest),
        (
            10,
            r.committed is not None
            and r.committed != p.committed
            and r.committed != p.newest
            and not height["C'"] < height["C"],
        ),
        (11, unanswered),
        (12, p.committed is not None and r.committed != p.committed),
        (13, p.relation != r.relation),
        (14, stranger or p.progress > r.progress),
        (15, True),
    ]
    return next(number for number, applies in lines if applies)
