"""What became of one cycle when: the same trace at both sites, without a word about it.

A cycle's id has the sixteen bytes of a trace's id, and both sites know it; the span
that all others are part of has an id made from it. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

SPAN_ID_BYTES: Final = 8
NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a cycle, by the wall clock of the site that tells it."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class CycleTrace:
    """What one site tells of a cycle. `whole` is the sending site's alone, and so is
    `given_up`: why the cycle makes no point; empty for one that does."""

    cycle_id: bytes
    attributes: Mapping[str, str | int | float]
    parts: tuple[Span, ...]
    whole: Span | None = None
    given_up: str = ""

    @property
    def spans(self) -> int:
        return len(self.parts) + (self.whole is not None)


Trace = Callable[[CycleTrace], None]
"""Takes what there is to tell; returns at once, whatever loop or thread calls."""


def no_trace(told: CycleTrace) -> None:
    """Tell nobody."""


def trace_id(cycle_id: bytes) -> int:
    return int.from_bytes(cycle_id, "big")


def whole_span_id(cycle_id: bytes) -> int:
    """Return the id of the span that the whole cycle is, the same at both sites."""
    digest = hashlib.blake2b(cycle_id, digest_size=SPAN_ID_BYTES, person=b"cycle")
    return int.from_bytes(digest.digest(), "big")


def in_turn(began_ns: int, *lengths: tuple[str, float]) -> tuple[Span, ...]:
    """Return parts that follow each other, each of a name and its seconds.

    Lengths are of a clock that nobody sets, so that no part ends before it begins.
    """
    spans = []
    for name, seconds in lengths:
        end_ns = began_ns + max(0, round(seconds * NANOSECONDS))
        spans.append(Span(name, began_ns, end_ns))
        began_ns = end_ns
    return tuple(spans)
