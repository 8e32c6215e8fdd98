"""Run an operator's probe on a test copy: its environment, its time, its end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from common.errors import FarshoreError
from common.service.drill_status import DrillVerdict
from common.service.process_groups import end_group

TERMINATE_SECONDS = 10.0
"""What a probe gets to clean up, once it has been told to end."""


class ProbeError(FarshoreError):
    """The operator must mend the probe: it cannot be run."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a probe ended; `exit_code` as `subprocess` has it, None before a start."""

    verdict: DrillVerdict
    reason: str
    exit_code: int | None
    seconds: float


def environment(group: str, copy: dict[str, Any]) -> dict[str, str]:
    """Return what a probe is told of a test copy, beside our own environment.

    `FARSHORE_URI_VOLUME` for each volume, its name in capitals and `_` for what is
    no letter or digit; where two names become the same, neither is there.
    """
    uris = {e["volume"]: (e["uris"] or [""])[0] for e in copy["exports"]}
    told = {
        "FARSHORE_GROUP": group,
        "FARSHORE_TEST_COPY": copy["name"],
        "FARSHORE_POINT": str(copy["point"]),
        "FARSHORE_CUT_TIME": copy["cut_time"],
        "FARSHORE_LABEL": copy["label"] or "",
        "FARSHORE_URIS": "".join(f"{name} {uri}\n" for name, uri in uris.items()),
    }
    variables = [_variable(name) for name in uris]
    told |= {
        variable: uri
        for variable, uri in zip(variables, uris.values(), strict=True)
        if variables.count(variable) == 1
    }
    if len(uris) == 1:
        told["FARSHORE_URI"] = next(iter(uris.values()))
    return told


def _variable(volume: str) -> str:
    return "FARSHORE_URI_" + re.sub("[^A-Z0-9]", "_", volume.upper())


def run_probe(
    words: list[str], told: dict[str, str], timeout_seconds: float, *, to_stderr: bool
) -> Ended:
    """Run a command to its end, or end it: it and all that it has started.

    `to_stderr`: where stdout is for JSON. Raises `ProbeError` where it cannot be run.
    """
    began = time.monotonic()
    try:
        process = subprocess.Popen(  # noqa: S603 - what the operator has named
            words,
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if to_stderr else None,
            start_new_session=True,
        )
    except OSError as error:
        raise ProbeError(
            f"{words[0]}: cannot be run ({error.strerror or error}): name a script "
            "with a #! line that you may execute"
        ) from None
    verdict, reason = DrillVerdict.PASSED, ""
    try:
        code = process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        verdict, reason = DrillVerdict.TIMED_OUT, f"not done in {timeout_seconds:g} s"
        code = _ended(process)
    except KeyboardInterrupt:
        verdict, reason = DrillVerdict.INTERRUPTED, "the drill was interrupted"
        code = _ended(process)
    if verdict is DrillVerdict.PASSED and code:
        what = f"signal {-code}" if code < 0 else f"exit code {code}"
        verdict, reason = DrillVerdict.FAILED, f"the probe ended with {what}"
    return Ended(verdict, reason, code, time.monotonic() - began)


def _ended(process: subprocess.Popen[bytes]) -> int:
    """End a probe and what it started; its own exit code."""
    code = end_group(process, TERMINATE_SECONDS)
    return process.wait() if code is None else code


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Make SIGTERM and SIGHUP what Ctrl-C is, so that what was begun is ended."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
