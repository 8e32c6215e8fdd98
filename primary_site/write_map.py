"""Where hosts write: for people who look at a picture of the volume."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from primary_site.replicator import Replicator
from primary_site.volume import PrimaryVolume

COLUMNS_MAX: Final = 64
"""Parts of a volume that are told apart; of a small one no more than it has regions."""


async def write_map(replicator: Replicator, *, since: dict[str, int]) -> dict[str, Any]:
    """Return, by volume, in which parts of it hosts wrote since a call before.

    `since` has the `mark` that the call before returned, by volume. `columns` counts
    the regions written in each part of equal size. What was written and has cooled
    since is not counted. One volume after the other: each takes part of a millisecond
    of the loop that serves hosts.
    """
    found = {}
    for volume in replicator.group.volumes:
        found[volume.name] = _of_volume(volume, since.get(volume.name, 0))
        await asyncio.sleep(0)
    return found


def _of_volume(volume: PrimaryVolume, since: int) -> dict[str, Any]:
    mark, regions = volume.heat.written_since(since)
    count = volume.geometry.region_count
    columns = [0] * min(COLUMNS_MAX, count)
    for region in regions:
        columns[region * len(columns) // count] += 1
    return {"mark": mark, "columns": columns}
