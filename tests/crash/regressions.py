"""Runs that once failed: (component, seed). A run that fails is added here for good.

A seed stands for the same run as long as its explorer draws the same numbers. What it
showed is told beside it, and tested by a test of its own where that is possible.
"""

from __future__ import annotations

REGRESSIONS: tuple[tuple[str, int], ...] = (
    # A snapshot of the region log that a power cut had torn became whole by the
    # sectors of the next one: hot regions were forgotten.
    ("region_log", 9),
    # A first start was killed between a device's size and its flush; the next one took
    # the size for durable, stored its record, and after a power cut found no device.
    ("primary", 1),
)
