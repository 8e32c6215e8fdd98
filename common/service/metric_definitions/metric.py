"""What a metric is, and how one is read off a status.

Values come from the status at the moment of the scrape; nothing is counted here. A
group, export, volume or alarm is a label: as many as the config has. What is not
known is left out, never 0. Names end in their unit.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from common.service.status import GroupStatus, HistogramStatus, SiteStatus

Labels = tuple[str, ...]
"""Values, in the order of the metric's label names."""


class Kind(enum.StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


Sample = tuple[Labels, float | HistogramStatus | None]


@dataclass(frozen=True, slots=True)
class Metric:
    """`site` is whose status has it: "both", "sending" or "receiving" groups'.

    `choices` are all values of the last label, where they are known beforehand.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...]
    site: str
    samples: Callable[[SiteStatus], Iterable[Sample]]
    choices: tuple[str, ...] = ()


def _at(group: GroupStatus, path: str) -> Any:
    """Return what a status has at a dotted path; None where a part is not known.

    A moment is returned in seconds.
    """
    value: Any = group
    for name in path.split("."):
        if value is None:
            return None
        value = getattr(value, name)
    return value / 1e9 if value is not None and path.endswith("_ns") else value


def of_groups(
    name: str,
    meaning: str,
    path: str,
    *,
    kind: Kind = Kind.GAUGE,
    site: str = "both",
) -> Metric:
    """Return a metric with one value a group; see `_at` for `path`."""

    def samples(status: SiteStatus) -> Iterator[Sample]:
        for group in status.groups:
            yield (group.name,), _at(group, path)

    return Metric(name, kind, meaning, ("group",), site, samples)


def of_each(
    name: str,
    meaning: str,
    labels: tuple[str, ...],
    values: Callable[[GroupStatus], Iterable[tuple[Labels, float | None]]],
    *,
    kind: Kind = Kind.GAUGE,
    site: str = "both",
    choices: tuple[str, ...] = (),
) -> Metric:
    """Return a metric with several values a group, told apart by `labels`."""

    def samples(status: SiteStatus) -> Iterator[Sample]:
        for group in status.groups:
            for inner, value in values(group):
                yield (group.name, *inner), value

    return Metric(name, kind, meaning, ("group", *labels), site, samples, choices)


def one_of(
    name: str,
    meaning: str,
    label: str,
    choices: Iterable[str],
    path: str,
    *,
    site: str = "both",
    when: str = "name",
) -> Metric:
    """Return a metric that is 1 for what holds, and 0 for each other choice.

    It has no values while the status has nothing at `when`.
    """
    every = tuple(choices)

    def values(group: GroupStatus) -> Iterator[tuple[Labels, float | None]]:
        if _at(group, when) is not None:
            found = _at(group, path)
            for choice in every:
                yield (choice,), float(choice == found)

    return of_each(name, meaning, (label,), values, site=site, choices=every)
