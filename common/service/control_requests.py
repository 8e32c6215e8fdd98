"""The requests of the control socket: their names, arguments and bounds."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
)

from common.errors import RefusedError
from common.replication.cycle_messages import LABEL_BYTES_MAX
from common.service.config_common import Name
from common.service.drill_status import DrillReport
from common.service.units import format_bandwidth, parse_bandwidth
from common.storage.geometry import VOLUME_BYTES_MAX

RATE_DEFAULT = "50MiB/s"
"""Read at a site for a verify or a scrub: others are to have the rest of the device."""

POINT_MAX = (1 << 63) - 1
"""Numbers of cycles travel in 63 bits."""

RATE_BYTES_MIN = 64 << 10
RATE_BYTES_MAX = 64 << 30


def check_label(label: str) -> str:
    """Return a label of one printable line, else raise ValueError."""
    if not label.isprintable() or not label.strip():
        raise ValueError("a label is one line of printable text")
    if len(label.encode()) > LABEL_BYTES_MAX:
        raise ValueError(f"a label has at most {LABEL_BYTES_MAX} bytes")
    return label


def check_rate(rate: str) -> str:
    """Return a rate that `parse_bandwidth` takes, else raise ValueError."""
    if RATE_BYTES_MIN <= parse_bandwidth(rate) <= RATE_BYTES_MAX:
        return rate
    raise ValueError(
        f"{rate} is out of bounds: choose a rate from "
        f"{format_bandwidth(RATE_BYTES_MIN)} to {format_bandwidth(RATE_BYTES_MAX)}"
    )


class Arguments(BaseModel):
    """A command's arguments: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoArguments(Arguments):
    """`status` needs none: it shows every group."""


class GroupArguments(Arguments):
    """`suspend` and `resume` name a group."""

    group: Name


class CutArguments(GroupArguments):
    """`cut`: with `wait`, the answer comes once the cut is safe, or cannot be."""

    wait: StrictBool = False
    label: Annotated[StrictStr, AfterValidator(check_label)] | None = None


class PointsArguments(GroupArguments):
    """`points`: the list, after a point is kept whatever the rules, or no longer."""

    keep: Annotated[StrictInt, Field(ge=1, le=POINT_MAX)] | None = None
    release: Annotated[StrictInt, Field(ge=1, le=POINT_MAX)] | None = None


class VerifyArguments(GroupArguments):
    """`verify`: every action answers with the report, None where there is none."""

    action: Literal["start", "report", "stop"]
    repair: StrictBool = False
    rate: Annotated[StrictStr, AfterValidator(check_rate)] = RATE_DEFAULT


class ScrubArguments(GroupArguments):
    """`scrub`: every action answers with the report, None where there is none."""

    action: Literal["start", "report", "stop"]
    rate: Annotated[StrictStr, AfterValidator(check_rate)] = RATE_DEFAULT


class CopyArguments(GroupArguments):
    """`test-copy`: answers with those started, stopped, or there.

    `point`: of which one is started, the newest when None. `name`: what it is to be
    called, or is; None: any that is free, or the only one there is.
    """

    action: Literal["start", "stop", "list"]
    name: Name | None = None
    point: Annotated[StrictInt, Field(ge=0, lt=1 << 63)] | None = None


class DrillArguments(GroupArguments):
    """`drill`: keeps one that was held, or lists those kept, newest first."""

    action: Literal["record", "list"]
    drill: DrillReport | None = None


class ForksArguments(GroupArguments):
    """`forks`: lists what was given up and is kept, once one has been deleted."""

    action: Literal["list", "delete"]
    number: Annotated[StrictInt, Field(ge=0)] | None = None


class GrowArguments(GroupArguments):
    """`grow` names a volume of the group, and the size that it is to have."""

    volume: Name
    size_bytes: Annotated[StrictInt, Field(gt=0, le=VOLUME_BYTES_MAX)]


class VolumeArguments(GroupArguments):
    """`volume`: add one, tell what removing it would do, or remove it.

    `cut_off`: hosts that use it, where it is removed.
    """

    action: Literal["add", "plan", "remove"]
    volume: Name
    cut_off: StrictBool = False


class TakeoverArguments(GroupArguments):
    """`takeover`: a plan of what it would do, or the takeover itself.

    Without `point` from the newest. `force`: also while the sending site is well.
    """

    action: Literal["plan", "start"]
    point: Annotated[StrictInt, Field(gt=0, le=POINT_MAX)] | None = None
    force: StrictBool = False


REQUESTS: dict[str, type[Arguments]] = {
    "status": NoArguments,
    "cut": CutArguments,
    "suspend": GroupArguments,
    "resume": GroupArguments,
    "points": PointsArguments,
    "verify": VerifyArguments,
    "scrub": ScrubArguments,
    "grow": GrowArguments,
    "failback": GroupArguments,
    "switchover": GroupArguments,
    "forks": ForksArguments,
    "test-copy": CopyArguments,
    "drill": DrillArguments,
    "identity": GroupArguments,
    "takeover": TakeoverArguments,
    "volume": VolumeArguments,
}


class Request(BaseModel):
    """One line of a client."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: StrictStr
    arguments: dict[str, Any] = {}


def parse_request(line: bytes) -> tuple[str, dict[str, Any]]:
    """Return (command, arguments) of a request's line, arguments complete.

    Raises `RefusedError` with the reason.
    """
    try:
        request = Request.model_validate(json.loads(line))
    except (ValueError, RecursionError):
        raise RefusedError(
            'not a request: send {"command": ..., "arguments": {...}} on one line'
        ) from None
    model = REQUESTS.get(request.command)
    if model is None:
        raise RefusedError(
            f"this daemon has no command {request.command!r:.80}: it has "
            f"{', '.join(REQUESTS)}"
        )
    try:
        return request.command, model.model_validate(request.arguments).model_dump()
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        name = details["loc"][0] if details["loc"] else "arguments"
        reason = details.get("ctx", {}).get("error", details["msg"])
        raise RefusedError(f"{request.command}: {name!s:.80}: {reason}") from None
