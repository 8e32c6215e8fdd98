"""What a remote knows of a group's primary, for a primary that has lost its state.

A file that an operator carries from one site to the other: `farshore identity` writes
it, `farshore adopt` reads it. It is no secret, but names who the group's sender is.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from common.replication.lineage import ID_BYTES
from common.service.config_common import Name

Id = Annotated[str, Field(pattern=f"^[0-9a-f]{{{2 * ID_BYTES}}}$")]
Count = Annotated[StrictInt, Field(ge=0, lt=1 << 63)]


class Identity(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CycleIdentity(Identity):
    number: Count
    id: Id


class PointIdentity(CycleIdentity):
    """The newest recovery point."""

    cut_ns: Count
    current_as_of_ns: Count
    label: str | None = None


class VolumeIdentity(Identity):
    name: Name
    id: Id
    size_bytes: Count
    track_bytes: Count


class GroupIdentity(Identity):
    """`epoch` and `receipt`: of the newest session that the primary has shown.

    `begun`: the newest cycle of which tracks may have been applied.
    """

    farshore_identity: Annotated[StrictInt, Field(ge=1, le=1)] = 1
    """The version of this form."""
    group: Name
    primary: Name
    group_id: Id
    lineage: Id
    epoch: Count
    receipt: Id
    begun: CycleIdentity | None
    point: PointIdentity | None
    volumes: tuple[VolumeIdentity, ...]
