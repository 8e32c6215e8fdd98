"""What a remote says of a test copy: what `farshore test-copy --json` prints."""

from __future__ import annotations

from pydantic import Field

from common.service.status import Moment, Snapshot


class CopyExport(Snapshot):
    """A volume of it. `uris`: at each of the daemon's NBD addresses."""

    volume: str
    export: str
    size_bytes: int
    uris: tuple[str, ...]


class CopyStatus(Snapshot):
    """`size_bytes`: what its own tracks may cost in room, all volumes together."""

    name: str
    point: int
    cut_ns: Moment = Field(serialization_alias="cut_time")
    label: str | None
    started_ns: Moment = Field(serialization_alias="started")
    size_bytes: int = Field(serialization_alias="bytes")
    connections: int
    exports: tuple[CopyExport, ...]
