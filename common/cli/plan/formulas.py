"""How much link, room and memory a promise takes: the formulas of sizing.md. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from common.service.retention_rules import RetentionRule

HEADROOM = 1.25
"""Of the link: for heartbeats, retransmission, and a day that is busier."""

JOURNAL_FULL_SHARE = 0.9
"""Of `journal.limit`: from there on points go."""

PROCESS_BYTES = 160 << 20
"""Of the interpreter and its libraries, and threads' stacks."""

BITMAPS_A_VOLUME = 6
"""FlashCopy, PPRC, acked and carried, and two in use while they are written out."""

RPO_SECONDS_MAX = 30 * 86400.0
SEARCH_ROUNDS = 60
"""Halving a month so often leaves less than a microsecond."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What changed in a stretch of time; `wire_bytes` None: not known."""

    seconds: float
    changed_bytes: float
    wire_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be kept. `overhead_seconds`: of a cycle, beside its bytes."""

    rpo_seconds: float
    volume_bytes: int
    bitmap_bytes: int
    retain: tuple[RetentionRule, ...] = ()
    resume_timeout_seconds: float = 600.0
    overhead_seconds: float = 0.25
    wire_ratio: float | None = None
    journal_ratio: float = 1.0
    in_flight_bytes: int = 512 << 20
    bandwidth: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes. Rates in bytes a second; None where no bandwidth was named.

    `rpo_reached_seconds` is None, too, where the link does not even carry the mean.
    """

    recorded_seconds: float
    mean_changed_rate: float
    peak_changed_rate: float
    wire_ratio: float
    link_rate: float
    targets_bytes: int
    journal_bytes: int
    primary_memory_bytes: int
    remote_memory_bytes: int
    rpo_reached_seconds: float | None
    first_copy_seconds: float | None


class Record:
    """Samples one after the other, as a curve of what has changed in all."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        """Raises ValueError where nothing was recorded."""
        kept = [each for each in samples if each.seconds > 0]
        if not kept:
            raise ValueError("nothing was recorded: record for longer")
        self._times = [0.0, *accumulate(each.seconds for each in kept)]
        self._bytes = [0.0, *accumulate(each.changed_bytes for each in kept)]
        self.seconds = self._times[-1]
        self.changed_bytes = self._bytes[-1]
        self._known = [each for each in kept if each.wire_bytes is not None]

    @property
    def mean_rate(self) -> float:
        return self.changed_bytes / self.seconds

    def wire_ratio(self) -> float | None:
        """Return bytes on the wire for each byte changed, as far as it is recorded."""
        changed = sum(each.changed_bytes for each in self._known)
        if not changed:
            return None
        return sum(each.wire_bytes or 0.0 for each in self._known) / changed

    def burst(self, seconds: float) -> float:
        """Return the most that changed within any stretch so long.

        Within a sample the rate counts as even; so the greatest stretch begins or
        ends where a sample does. Never less than the mean, and that of more time than
        was recorded.
        """
        even = self.mean_rate * seconds
        if seconds >= self.seconds:
            return even
        starts = [*self._times, *(end - seconds for end in self._times)]
        found = (
            self._until(start + seconds) - self._until(start)
            for start in starts
            if 0 <= start <= self.seconds - seconds
        )
        return max(even, *found)

    def _until(self, time: float) -> float:
        place = min(bisect_right(self._times, time), len(self._times) - 1)
        before, after = self._times[place - 1], self._times[place]
        share = (time - before) / (after - before)
        first, last = self._bytes[place - 1], self._bytes[place]
        return first + share * (last - first)


def link_rate(record: Record, wanted: Wanted, rpo: float, ratio: float) -> float:
    """Return the bytes a second that keep points younger than `rpo`, at the peak.

    A point is at its oldest when the next one is committed: one interval and one drain
    after its cut. Each gets half of the promise, less what a cycle takes in any case.
    """
    half = max((rpo - wanted.overhead_seconds) / 2, rpo / 4)
    return HEADROOM * ratio * max(record.burst(half) / half, record.mean_rate)


def rpo_reached(
    record: Record, wanted: Wanted, ratio: float, bandwidth: float
) -> float | None:
    """Return the shortest promise that a link keeps; None: changes pile up for ever."""
    if link_rate(record, wanted, RPO_SECONDS_MAX, ratio) > bandwidth:
        return None
    low, high = 0.0, RPO_SECONDS_MAX
    for _ in range(SEARCH_ROUNDS):
        middle = (low + high) / 2
        if middle and link_rate(record, wanted, middle, ratio) <= bandwidth:
            high = middle
        else:
            low = middle
    return max(high, 2 * wanted.overhead_seconds)


def targets_bytes(record: Record, wanted: Wanted) -> float:
    """Return the room for FlashCopy targets: of this cycle, and of the one before.

    A cycle lasts as long as the promise, and one that waits for its link for
    `resume_timeout` more; each preserves a track once.
    """
    longest = wanted.rpo_seconds + wanted.resume_timeout_seconds
    return sum(
        min(float(wanted.volume_bytes), record.burst(seconds))
        for seconds in (longest, wanted.rpo_seconds)
    )


def journal_bytes(record: Record, wanted: Wanted) -> float:
    """Return the room for journals: of the open one, and of all that rules keep.

    A journal has the old content of each track once. Those of "all" points hold what
    each cycle changed; one for a period holds what changed in the period, at most the
    volume.
    """
    total = min(float(wanted.volume_bytes), record.burst(2 * wanted.rpo_seconds))
    for rule in wanted.retain:
        if not rule.period_seconds:
            total += record.mean_rate * rule.duration_seconds
            continue
        each = record.mean_rate * rule.period_seconds
        count = math.ceil(rule.duration_seconds / rule.period_seconds)
        total += count * min(float(wanted.volume_bytes), each)
    return total * wanted.journal_ratio / JOURNAL_FULL_SHARE


def memory_bytes(bitmap_bytes: int, in_flight_bytes: int) -> int:
    """Return what a daemon may come to use; `bitmap_bytes`: one for each volume."""
    return PROCESS_BYTES + BITMAPS_A_VOLUME * bitmap_bytes + in_flight_bytes


def make_plan(record: Record, wanted: Wanted) -> Plan:
    """Return what a promise takes, by what was recorded."""
    ratio = wanted.wire_ratio or record.wire_ratio() or 1.0
    half = max((wanted.rpo_seconds - wanted.overhead_seconds) / 2, 0.001)
    bandwidth, reached, first = wanted.bandwidth, None, None
    if bandwidth is not None:
        reached = rpo_reached(record, wanted, ratio, bandwidth)
        first = wanted.volume_bytes * min(ratio, 1.0) / bandwidth
    memory = memory_bytes(wanted.bitmap_bytes, wanted.in_flight_bytes)
    return Plan(
        recorded_seconds=record.seconds,
        mean_changed_rate=record.mean_rate,
        peak_changed_rate=record.burst(half) / half,
        wire_ratio=ratio,
        link_rate=link_rate(record, wanted, wanted.rpo_seconds, ratio),
        targets_bytes=math.ceil(targets_bytes(record, wanted)),
        journal_bytes=math.ceil(journal_bytes(record, wanted)),
        primary_memory_bytes=memory,
        remote_memory_bytes=memory,
        rpo_reached_seconds=reached,
        first_copy_seconds=first,
    )
