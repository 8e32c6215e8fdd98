"""What a scrub found: the report that `farshore scrub --json` prints."""

from __future__ import annotations

import enum
from typing import Self

from pydantic import Field

from common.service.status import Moment, ScrubSummary, Snapshot


class ScrubResult(enum.StrEnum):
    CLEAN = "clean"
    DAMAGED = "damaged"
    FAILED = "failed"
    STOPPED = "stopped"


class ScrubFinding(Snapshot):
    file: str
    offset_bytes: int = Field(serialization_alias="offset")
    reason: str


class ScrubReport(Snapshot):
    """One scrub; `result` is None while it is under way."""

    result: ScrubResult | None
    reason: str
    started_ns: Moment = Field(serialization_alias="started")
    ended_ns: Moment | None = Field(serialization_alias="ended")
    read_bytes: int
    total_bytes: int
    findings: tuple[ScrubFinding, ...]
    findings_omitted: int

    def first(self, count: int) -> Self:
        """Return it with so many findings at most."""
        omitted = max(len(self.findings) - count, 0)
        return self.model_copy(
            update={
                "findings": self.findings[:count],
                "findings_omitted": self.findings_omitted + omitted,
            }
        )

    def summary(self) -> ScrubSummary | None:
        if self.result is None or self.ended_ns is None:
            return None
        return ScrubSummary(
            result=self.result,
            ended_ns=self.ended_ns,
            read_bytes=self.read_bytes,
            findings=len(self.findings) + self.findings_omitted,
        )
