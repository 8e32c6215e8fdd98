"""Histograms that live in memory: what a daemon did, by how long it took."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from common.service.status import HistogramStatus

HOLD_BOUNDS_SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
"""Up to the largest `hold_max` that a config may ask for."""

CYCLE_BOUNDS_SECONDS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0),
)

COMMIT_BOUNDS_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class Histogram:
    """Counts of lengths of time, owned by one loop."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds_seconds: Sequence[float]) -> None:
        """`bounds_seconds` ascend; a value belongs to the first bound not below it."""
        self._bounds = tuple(bounds_seconds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def status(self) -> HistogramStatus:
        return HistogramStatus(
            bounds_seconds=self._bounds,
            counts=tuple(self._counts),
            sum_seconds=self._sum,
        )
