"""The link between the sites."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from common.service.metric_definitions.metric import (
    Kind,
    Labels,
    of_each,
    of_groups,
    one_of,
)
from common.service.status import GroupStatus, LinkState


def _connections(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    for state in LinkState:
        yield (state,), sum(peer.state is state for peer in group.link.peers)


def _round_trips(group: GroupStatus) -> Iterator[tuple[Labels, float | None]]:
    # By place and not by number: a number is new each time that one is made again.
    for place, peer in enumerate(group.link.peers):
        yield (str(place),), peer.round_trip_seconds


def _certificates(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    for whose, certificate in (
        ("own", group.link.certificate),
        ("peer", group.link.peer_certificate),
    ):
        if certificate:
            yield (whose,), certificate.seconds_left


LINK_METRICS: Final = (
    one_of(
        "farshore_link_state",
        "1 for the state that the link is in.",
        "state",
        LinkState,
        "link.state",
    ),
    of_each(
        "farshore_link_connections",
        "Connections of the session, by their state.",
        ("state",),
        _connections,
        choices=tuple(LinkState),
    ),
    of_each(
        "farshore_link_round_trip_seconds",
        "Round trip of each connection, by its place among them.",
        ("connection",),
        _round_trips,
    ),
    of_groups(
        "farshore_link_sent_bytes_total",
        "Bytes sent in this session over all connections; a new session begins at 0.",
        "link.session_sent_bytes",
        kind=Kind.COUNTER,
        site="sending",
    ),
    of_groups(
        "farshore_link_rate_bytes_per_second",
        "The rate that paces sending, if one does.",
        "link.rate_bytes_per_second",
        site="sending",
    ),
    of_groups(
        "farshore_link_encrypted",
        "1 where replication goes over TLS, 0 in plain text.",
        "link.encrypted",
    ),
    of_each(
        "farshore_certificate_expires_seconds",
        "Time until a certificate of replication expires; negative once it has.",
        ("whose",),
        _certificates,
        choices=("own", "peer"),
    ),
)
