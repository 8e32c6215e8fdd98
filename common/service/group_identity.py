"""What one site knows of a group, for the other one, which has lost its state.

A file that an operator carries from one site to the other: `farshore identity` writes
it, `farshore adopt` reads it. It is no secret, but names who the group's sender is.
"""

from __future__ import annotations

from typing import Annotated, Any

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


class ServedIdentity(Identity):
    """The line of data that the site which tells this serves, and where it parted.

    `lineage` went on at `at_ns` from `point` of `parent`, which was cut at `cut_ns`.
    """

    lineage: Id
    parent: Id
    point: CycleIdentity
    cut_ns: Count
    at_ns: Count


class GroupIdentity(Identity):
    """`primary`: the name of the site that this is for.

    `epoch` and `receipt`: of the newest session that the primary has shown. `begun`:
    the newest cycle of which tracks may have been applied, or that was ever begun at
    the site that tells this. `served`: that site serves the group, and who takes it up
    receives it; None: who takes it up is the primary.
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
    served: ServedIdentity | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form of the file; without `served` as earlier releases read it."""
        left_out = {"served"} if self.served is None else set()
        return self.model_dump(mode="json", exclude=left_out)
