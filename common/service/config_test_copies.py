"""The table that says where a group's test copies keep what is written to them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.service.config_common import Path, Table, written
from common.service.units import Bytes, size_bounds


class CopiesTable(Table):
    """Where test copies keep what is written to them."""

    directory: Path | None = Field(
        default=None,
        description=(
            "Folder in which test copies keep what is written to them, while they "
            "last. Default: beside the group's journals."
        ),
    )
    reserve_bytes: Annotated[Bytes, size_bounds("0B", "1PiB")] = Field(
        default=written("1GiB"),
        alias="reserve",
        description=(
            "Room of that folder's file system that test copies leave to others: a "
            "write that would take more gets ENOSPC from the test copy alone, and "
            "replication goes on."
        ),
    )
