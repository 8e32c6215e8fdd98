"""Connections that have not yet become a link: counted, bounded, the oldest let go.

Pure. Everybody who reaches the port can open connections; what they cost before they
have proved who they are is bounded by their number and by time. Were the newest
refused when the number is reached, a few silent connections would keep the real peer
out; so it takes the place of the one that has waited longest, among those of the
address that has most. Addresses from which a peer has proved who it is come last.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass
from typing import Final

UNKNOWN_CONNECTIONS_MAX: Final = 32
"""Each costs a socket, a task and, once it has begun with TLS, some 50 KiB."""


FAMILIAR_MAX: Final = 64
"""Addresses remembered: more than there are primaries."""

_IPV6_NETWORK_BITS: Final = 64
"""Who has one address of IPv6 has all of its network."""


@dataclass(eq=False, slots=True)
class Unknown:
    """One connection; `origin` is what its address counts as."""

    origin: str
    can_be_dropped: bool = True


def origin_of(peer: str) -> str:
    """Return what "HOST:PORT" counts as: its address, or that one's IPv6 network."""
    host = peer.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    if found.version == 4:
        return host
    network = ipaddress.ip_network((found, _IPV6_NETWORK_BITS), strict=False)
    return str(network.network_address)


class UnknownConnections:
    """Those of one listener, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[Unknown, None] = {}
        self._familiar: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, newcomer: Unknown) -> Unknown | None:
        """Count a new connection; return the one to drop for it, if any.

        That may be the newcomer: where all others have said their first message and
        wait for the answer.
        """
        victim = None
        if len(self._waiting) >= UNKNOWN_CONNECTIONS_MAX:
            victim = self._oldest_of_the_most() or newcomer
            self._waiting.pop(victim, None)
        if victim is not newcomer:
            self._waiting[newcomer] = None
        return victim

    def forget(self, connection: Unknown) -> None:
        """Count it no longer: it is a link, or gone. May be called twice."""
        self._waiting.pop(connection, None)

    def recognise(self, connection: Unknown) -> None:
        """Drop this one no more, and later ones of its origin after all others."""
        connection.can_be_dropped = False
        self._familiar.pop(connection.origin, None)
        self._familiar[connection.origin] = None
        if len(self._familiar) > FAMILIAR_MAX:
            del self._familiar[next(iter(self._familiar))]

    def _oldest_of_the_most(self) -> Unknown | None:
        droppable = [each for each in self._waiting if each.can_be_dropped]
        if not droppable:
            return None
        strange = [each for each in droppable if each.origin not in self._familiar]
        counts = Counter(each.origin for each in strange or droppable)
        origin = max(counts, key=counts.__getitem__)
        return next(each for each in droppable if each.origin == origin)
