"""Where a drain waits: for the disk here, the processor, the link, the remote. Pure.

Workers of a drain wait most for what is slowest: that is what a forecast names.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

FADE_SHARE = 0.5
"""Of earlier waits: what is left of their weight after another cycle."""

CURRENT_SECONDS_MIN = 1.0
"""Waits of the drain under way count alone once there are so many."""


class Cause(enum.StrEnum):
    """What keeps a cycle from being through sooner."""

    LINK_DOWN = "link_down"
    JUST_BEGUN = "just_begun"
    """The link was away until a moment ago, or this site did not send."""
    LINK = "link"
    REMOTE_DISK = "remote_disk"
    PRIMARY_DISK = "primary_disk"
    CPU = "cpu"


class Stage(enum.Enum):
    """What a drain may wait for, and the cause that it is counted under."""

    READ = Cause.PRIMARY_DISK
    ENCODE = Cause.CPU
    LINK = Cause.LINK
    REMOTE = Cause.REMOTE_DISK


@dataclass(slots=True)
class DrainWaits:
    """Seconds waited in each stage; those of workers side by side add up."""

    seconds: dict[Stage, float] = field(default_factory=dict)

    def add(self, stage: Stage, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextlib.contextmanager
    def during(self, stage: Stage, monotonic: Callable[[], float]) -> Iterator[None]:
        """Count the time within as waited for `stage`."""
        began = monotonic()
        try:
            yield
        finally:
            self.add(stage, monotonic() - began)

    def fade_into(self, newer: DrainWaits) -> None:
        """Add another cycle's waits; those before lose half their weight."""
        for stage in list(self.seconds):
            self.seconds[stage] *= FADE_SHARE
        for stage, seconds in newer.seconds.items():
            self.add(stage, seconds)

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def longest(self) -> Cause | None:
        """Return what was waited for most; None if nothing was."""
        if not self.total_seconds:
            return None
        stage: Stage = max(self.seconds, key=self.seconds.__getitem__)
        return stage.value


def cause_of(before: DrainWaits, current: DrainWaits | None) -> Cause | None:
    """Return what cycles wait for most: this one, or those before if it is young."""
    if current is not None and current.total_seconds >= CURRENT_SECONDS_MIN:
        return current.longest()
    together = DrainWaits(dict(before.seconds))
    for stage, seconds in ({} if current is None else current.seconds).items():
        together.add(stage, seconds)
    return together.longest()
