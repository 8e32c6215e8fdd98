"""Runs that once failed: (component, seed). A run that fails is added here for good.

A campaign runs these too, whether or not they are among its seeds. A seed stands for
the same run as long as its explorer draws the same numbers; what it showed is told
beside it, and has a test of its own where that is possible.
"""

from __future__ import annotations

REGRESSIONS: tuple[tuple[str, int], ...] = (
    # A snapshot of the region log that a power cut had torn became whole by the
    # sectors of the next one: hot regions were forgotten.
    ("region_log", 0),
    # A first start was killed between a device's size and its flush; the next one took
    # the size for durable, stored its record, and after a power cut found no device.
    # And with few regions hot, hosts waited for ever: more were wanted than could be,
    # and none was there to cool.
    ("primary", 3),
)
