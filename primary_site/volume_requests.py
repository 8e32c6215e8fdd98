"""`farshore volume`: asked of the site that sends a group, whichever that is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from common.errors import RefusedError
from common.nbd.server import NbdServer
from primary_site.points_here import NO_POINTS, PointsHere
from primary_site.sending_groups import SendingGroups


async def volume_request(
    sending: SendingGroups,
    nbd: NbdServer | None,
    name: str,
    *,
    points: PointsHere | None,
    action: str,
    volume: str,
    cut_off: bool = False,
) -> dict[str, Any]:
    """Add a volume, say what removing one would do (`plan`), or remove it.

    `points`: those of the group that this site keeps. Raises `RefusedError`.
    """
    points = points or NO_POINTS
    hosted = sending.sent(name)
    if action == "add":
        size_bytes = await sending.add_volume(name, volume, points)
        return {"group": name, "volume": volume, "size_bytes": size_bytes}
    leaving = await hosted.ask(lambda: hosted.members.leaving(volume))
    hosts = _hosts(nbd, f"{name}/{volume}")
    plan = {"group": name, **asdict(leaving), "hosts": hosts}
    if action == "plan":
        return plan
    if hosts and not cut_off:
        raise RefusedError(
            f"{hosts} connections of hosts use {name}/{volume}: end them first, or "
            "have them cut off (cut_off)"
        )

    async def disconnect(export: str) -> None:
        if nbd is not None:
            await nbd.disconnect(export)

    await sending.remove_volume(name, volume, disconnect, points)
    return plan


def _hosts(nbd: NbdServer | None, export: str) -> int:
    if nbd is None:
        return 0
    found = nbd.connections_by_export()
    return found.get(export, 0) + found.get(f"{export}@cut", 0)
