"""What operators ask of a group's test copies over the control socket."""

from __future__ import annotations

from common.nbd.server import NbdServer
from common.nbd.uris import uris
from common.service.test_copy_status import CopyExport, CopyStatus
from remote_site.test_copies import GroupTestCopies, StartedCopy


async def test_copy_request(
    copies: GroupTestCopies,
    nbd: NbdServer,
    *,
    action: str,
    name: str | None,
    point: int | None,
) -> list[CopyStatus]:
    """Start, stop or list; return those started, stopped, or there."""
    if action == "start":
        return [_status(copies, nbd, await copies.start(name, point))]
    if action == "stop":
        copy = copies.find(name)
        said = _status(copies, nbd, copy)
        await copies.stop(copy, nbd.disconnect)
        return [said]
    return [_status(copies, nbd, copy) for copy in copies.all]


def _status(copies: GroupTestCopies, nbd: NbdServer, copy: StartedCopy) -> CopyStatus:
    return CopyStatus(
        name=copy.name,
        point=copy.point.number,
        cut_ns=copy.point.cut_ns,
        label=copy.point.label,
        started_ns=copy.started_ns,
        size_bytes=copy.own_bytes,
        connections=copy.openings,
        exports=tuple(
            CopyExport(
                volume=volume,
                export=copies.export_name(volume, copy.name),
                size_bytes=opened.size_bytes,
                uris=tuple(uris(nbd.addresses, copies.export_name(volume, copy.name))),
            )
            for volume, opened in copy.volumes.items()
        ),
    )
