"""What is kept of a drill: a test copy, an operator's probe on it, and the verdict."""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import Field, PlainSerializer, StrictInt

from common.service.moments import rfc3339
from common.service.status import DrillSummary, Snapshot

DRILLS_MAX = 32
"""Kept of each group; the oldest go first. Together they fit into one record."""

PROBE_CHARACTERS_MAX = 200
REASON_CHARACTERS_MAX = 200

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Nanoseconds = Annotated[
    StrictInt,
    Field(ge=0, lt=1 << 63),
    PlainSerializer(rfc3339, return_type=str, when_used="json-unless-none"),
]


class DrillVerdict(enum.StrEnum):
    """`not_started`: there was no test copy to probe."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    NOT_STARTED = "not_started"


class DrillReport(Snapshot):
    """One drill. `exit_code` is the probe's; a signal's number, negative.

    `age_seconds`: how old the point's cut was when the drill began. Seconds that were
    not come to are None.
    """

    started_ns: Annotated[Nanoseconds, Field(serialization_alias="started")]
    verdict: DrillVerdict
    reason: Annotated[str, Field(max_length=REASON_CHARACTERS_MAX)]
    probe: Annotated[str, Field(max_length=PROBE_CHARACTERS_MAX)]
    exit_code: int | None = None
    point: int | None = None
    cut_ns: Annotated[Nanoseconds | None, Field(serialization_alias="cut_time")] = None
    age_seconds: Seconds | None = None
    start_seconds: Seconds | None = None
    probe_seconds: Seconds | None = None
    stop_seconds: Seconds | None = None

    def summary(self) -> DrillSummary:
        return DrillSummary(
            started_ns=self.started_ns,
            verdict=self.verdict,
            point=self.point,
            probe_seconds=self.probe_seconds,
        )
