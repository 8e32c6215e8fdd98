"""What operators ask of a group that this site sends; run on its loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

from common.errors import RefusedError
from common.service.status import CutStatus
from common.service.units import parse_bandwidth
from primary_site.reclaiming import reclaim_request
from primary_site.replicator import Replicator
from primary_site.report import points
from primary_site.write_map import write_map


async def _cut(
    replicator: Replicator, *, wait: bool, label: str | None
) -> dict[str, Any]:
    ticket = await replicator.request_cut(label)
    cut = await ticket.taken
    if wait:
        await ticket.safe
    return CutStatus(
        number=cut.number,
        cut_ns=cut.cut_ns,
        hold_seconds=cut.hold_seconds,
        committed=ticket.safe.done(),
    ).to_json()


async def _points(
    replicator: Replicator, *, keep: int | None, release: int | None
) -> list[dict[str, Any]]:
    if keep is not None or release is not None:
        raise RefusedError(
            "this site sends the group: run farshore points with --keep or --release "
            "at the receiving site, which has the points"
        )
    return [point.to_json() for point in points(replicator)]


async def _verify(
    replicator: Replicator, *, action: str, repair: bool, rate: str
) -> dict[str, Any] | None:
    verifying = replicator.verifying
    if action == "start":
        verifying.start(repair=repair, rate_bytes=parse_bandwidth(rate))
    elif action == "stop":
        await verifying.stop()
    report = verifying.report()
    return None if report is None else report.to_json()


async def _grow(
    replicator: Replicator, *, volume: str, size_bytes: int
) -> dict[str, Any]:
    return asdict(await replicator.grow(volume, size_bytes))


OPERATIONS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "cut": _cut,
    "suspend": Replicator.suspend,
    "resume": Replicator.resume,
    "points": _points,
    "verify": _verify,
    "grow": _grow,
    "write_map": write_map,
    "takeover": reclaim_request,
}
"""By the command's name, each given the replicator and the command's arguments."""
