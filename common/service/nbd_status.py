"""What a status tells of the NBD server."""

from __future__ import annotations

from common.nbd.server import NbdServer
from common.service.status import NbdStatus


def nbd_status(server: NbdServer | None) -> NbdStatus | None:
    """Return who is attached; None before anybody can be."""
    if server is None:
        return None
    return NbdStatus(
        handshakes=server.handshake_count,
        exports=server.connections_by_export(),
        waiting_for_memory=server.waiting_for_memory_count,
    )
