"""`farshore forks`: what was given up and is kept, listed and deleted."""

from __future__ import annotations

from typing import Any

from common.errors import RefusedError
from common.service.moments import rfc3339
from remote_site.group import ReceivingGroup


async def fork_request(
    group: ReceivingGroup | None, name: str, *, action: str, number: int | None
) -> list[dict[str, Any]]:
    """Return the forks of a group, oldest first, once one has been deleted, if asked.

    A fork's export is `GROUP/VOLUME@NUMBER`. Raises `RefusedError`.
    """
    if action == "delete":
        if group is None or number is None:
            raise RefusedError(f"group {name} has no fork here")
        await group.store.delete_fork(number)
        group.thinning.operator_chose()  # its room, now rather than with the next cut
    if group is None:
        return []
    return [
        {
            "number": fork.number,
            "lineage": fork.lineage.hex(),
            "kept_at": rfc3339(fork.at_ns),
            "bytes": group.store.point_bytes(fork.number),
            "exports": [
                f"{name}/{offer.name}@{fork.number}"
                for _, offer in group.store.volumes_at(fork.number)
            ],
        }
        for fork in group.store.forks
    ]
