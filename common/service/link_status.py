"""What both sites tell of the links of a session."""

from __future__ import annotations

from collections.abc import Iterable

from common.replication.link import Link
from common.service.status import LinkState, PeerStatus


def connected(links: Iterable[Link], control: Link) -> tuple[PeerStatus, ...]:
    """Return a status of each link that lives; `control` carries control messages."""
    return tuple(
        PeerStatus(
            address=link.peer,
            state=LinkState.CONNECTED,
            number=link.number,
            carries_control=link is control,
            sent_bytes=link.sent_bytes,
            received_bytes=link.received_bytes,
            round_trip_seconds=link.round_trip_seconds,
            clock_offset_seconds=link.clock_offset_seconds,
        )
        for link in links
    )
