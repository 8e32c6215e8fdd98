"""What `farshore takeover` is answered: what it would do, and what it has done."""

from __future__ import annotations

from pydantic import Field

from common.service.status import Moment, Snapshot


class TakeoverPlanStatus(Snapshot):
    """What a takeover would do now. `sentences` are for people, before they say yes.

    `has_begun`: it was decided before, and goes on whatever is answered.
    """

    group: str
    point: int
    has_begun: bool
    age_seconds: float | None = None
    cycle_under_way: int | None = None
    newer_points: tuple[int, ...] = ()
    sentences: tuple[str, ...] = ()


class TakeoverStatus(Snapshot):
    """A takeover that was decided; once `is_done` hosts may write.

    `is_reclaimed`: at a superseded site, which goes on from its own data; the point is
    the newest that both have.
    """

    group: str
    point: int
    lineage: str
    parent: str
    cut_ns: Moment = Field(serialization_alias="cut_time")
    taken_over_ns: Moment = Field(serialization_alias="taken_over")
    is_done: bool
    is_reclaimed: bool = False
