"""What a verify found: the report that `farshore verify --json` prints."""

from __future__ import annotations

import enum
from typing import Self

from pydantic import Field

from common.service.status import Moment, Snapshot, VerifySummary

RANGES_MAX = 10_000
"""Ranges listed in one report; `ranges_omitted` counts the rest."""


class VerifyResult(enum.StrEnum):
    CLEAN = "clean"
    DIFFERS = "differs"
    REPAIRING = "repairing"
    UNREADABLE = "unreadable"
    FAILED = "failed"
    STOPPED = "stopped"


class DifferingRange(Snapshot):
    volume: str
    offset_bytes: int = Field(serialization_alias="offset")
    length_bytes: int = Field(serialization_alias="length")


class UnreadableRange(DifferingRange):
    reason: str


class VerifyReport(Snapshot):
    """One verify; `result` is None while it is under way.

    `differing` are whole tracks, joined where they touch.
    """

    result: VerifyResult | None
    reason: str
    repair: bool
    started_ns: Moment = Field(serialization_alias="started")
    ended_ns: Moment | None = Field(serialization_alias="ended")
    compared_bytes: int
    total_bytes: int
    differing_bytes: int
    differing: tuple[DifferingRange, ...]
    unreadable: tuple[UnreadableRange, ...]
    ranges_omitted: int
    eta_seconds: float | None

    def summary(self) -> VerifySummary | None:
        if self.result is None or self.ended_ns is None:
            return None
        return VerifySummary(
            result=self.result,
            ended_ns=self.ended_ns,
            compared_bytes=self.compared_bytes,
            differing_bytes=self.differing_bytes,
        )

    def first(self, count: int) -> Self:
        """Return it with so many ranges of each kind at most."""
        omitted = max(len(self.differing) - count, 0)
        omitted += max(len(self.unreadable) - count, 0)
        return self.model_copy(
            update={
                "differing": self.differing[:count],
                "unreadable": self.unreadable[:count],
                "ranges_omitted": self.ranges_omitted + omitted,
            }
        )

    def alarm(self, group: str) -> str:
        """Return what an operator is to know, and to type, of what was found."""
        found = []
        if self.differing:
            first = self.differing[0]
            found.append(
                f"{self.differing_bytes} bytes differ at the remote, the first at "
                f"{group}/{first.volume} {first.offset_bytes}+{first.length_bytes}"
            )
        if self.unreadable:
            bad = self.unreadable[0]
            found.append(
                f"{group}/{bad.volume} {bad.offset_bytes}+{bad.length_bytes} can't be "
                f"read at {bad.reason}"
            )
        if self.result is VerifyResult.REPAIRING:
            found.append("the next cycle mends it")
        elif self.differing:
            found.append(f"farshore verify {group} --repair mends it")
        return "; ".join(found)
