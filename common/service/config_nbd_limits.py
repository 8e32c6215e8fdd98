"""The bounds of the NBD server, as both sites' configs write them."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, StrictInt

from common.nbd.limits import NbdLimits
from common.service.config_common import Table, written
from common.service.units import Bytes, Seconds, count_bounds, size_bounds, time_bounds


class NbdLimitsTable(Table):
    """What one NBD client, and all of them, may use up."""

    handshake_timeout_seconds: Annotated[Seconds, time_bounds("100ms", "10m")] = Field(
        default=written("10s"),
        alias="handshake_timeout",
        description=(
            "Time for a client to negotiate, TLS included; afterwards it may idle "
            "for ever."
        ),
    )
    handshakes_max: Annotated[StrictInt, count_bounds(1, 10000)] = Field(
        default=200,
        description=(
            "Connections that negotiate; beyond, the oldest makes room for the newest."
        ),
    )
    connections_max: Annotated[StrictInt, count_bounds(1, 10000)] = Field(
        default=100,
        description="Connections that have negotiated; more are closed at once.",
    )
    connections_per_export_max: Annotated[StrictInt, count_bounds(1, 10000)] = Field(
        default=50, description="The same for each export."
    )
    requests_in_flight_max: Annotated[StrictInt, count_bounds(1, 1024)] = Field(
        default=128,
        description="Requests that one connection may have unanswered.",
    )
    bytes_in_flight_max: Annotated[Bytes, size_bounds("1MiB", "4GiB")] = Field(
        default=written("64MiB"),
        description="Bytes of READs and WRITEs in flight on one connection.",
    )
    daemon_bytes_in_flight_max: Annotated[Bytes, size_bounds("64MiB", "1TiB")] = Field(
        default=written("512MiB"),
        description="The same over all connections of the daemon.",
    )
    progress_timeout_seconds: Annotated[Seconds, time_bounds("1s", "1h")] = Field(
        default=written("60s"),
        alias="progress_timeout",
        description="A request that has begun to arrive must go on within this time.",
    )
    reply_timeout_seconds: Annotated[Seconds, time_bounds("1s", "1h")] = Field(
        default=written("60s"),
        alias="reply_timeout",
        description="A client must go on taking its replies within this time.",
    )
    options_max: Annotated[StrictInt, count_bounds(8, 10000)] = Field(
        default=32,
        description=(
            "Options one handshake may use; as many again for each export that it "
            "listed. A client that goes on is disconnected."
        ),
    )
    option_data_bytes_max: Annotated[Bytes, size_bounds("16KiB", "1MiB")] = Field(
        default=written("64KiB"),
        description=(
            "Data of one option; a client that sends more is disconnected. (A name "
            "or query ends at 4096 bytes, as the protocol says.)"
        ),
    )
    queries_max: Annotated[StrictInt, count_bounds(8, 65536)] = Field(
        default=1024,
        description="Queries in one option about metadata contexts.",
    )
    keepalive_idle_seconds: Annotated[Seconds, time_bounds("1s", "1h")] = Field(
        default=written("30s"),
        alias="keepalive_idle",
        description=(
            "After this long without a word a TCP peer is asked whether it is still "
            "there; part of a second counts as one."
        ),
    )
    keepalive_interval_seconds: Annotated[Seconds, time_bounds("1s", "1h")] = Field(
        default=written("10s"),
        alias="keepalive_interval",
        description="Time between such questions; part of a second counts as one.",
    )
    keepalive_probes: Annotated[StrictInt, count_bounds(1, 127)] = Field(
        default=6,
        description="Questions without an answer that end the connection.",
    )
    user_timeout_seconds: Annotated[Seconds, time_bounds("1s", "1h")] = Field(
        default=written("60s"),
        alias="user_timeout",
        description=(
            "A TCP peer's system must acknowledge what was sent within this time."
        ),
    )

    def nbd_limits(self) -> NbdLimits:
        """Return what the NBD server takes; the rest keeps its defaults."""
        return NbdLimits(
            handshake_seconds=self.handshake_timeout_seconds,
            handshakes_max=self.handshakes_max,
            connections_max=self.connections_max,
            connections_per_export_max=self.connections_per_export_max,
            requests_in_flight_max=self.requests_in_flight_max,
            bytes_in_flight_max=self.bytes_in_flight_max,
            daemon_bytes_in_flight_max=self.daemon_bytes_in_flight_max,
            progress_seconds=self.progress_timeout_seconds,
            reply_seconds=self.reply_timeout_seconds,
            options_max=self.options_max,
            option_data_bytes_max=self.option_data_bytes_max,
            queries_max=self.queries_max,
            keepalive_idle_seconds=math.ceil(self.keepalive_idle_seconds),
            keepalive_interval_seconds=math.ceil(self.keepalive_interval_seconds),
            keepalive_probes=self.keepalive_probes,
            user_timeout_seconds=self.user_timeout_seconds,
        )
