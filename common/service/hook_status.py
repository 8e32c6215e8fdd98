"""What a group's hooks have done since the daemon's start."""

from __future__ import annotations

import enum

from pydantic import BaseModel, ConfigDict


class HookOutcome(enum.StrEnum):
    """`stopped`: ended because the daemon stops."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    NOT_STARTED = "not_started"
    STOPPED = "stopped"


class HookStatus(BaseModel):
    """`runs` by how they ended; `last_seconds` is None before the first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: dict[str, int]
    last_seconds: float | None = None


class HooksStatus(BaseModel):
    """Of each hook, whether the config has it or not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before_cut: HookStatus
    after_cut: HookStatus
