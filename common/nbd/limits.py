"""The bounds within which NBD clients are served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.nbd.protocol import NAME_BYTES_MAX

RECEIVE_BUFFER_BYTES: Final = 1 << 20
"""One receive buffer: holds a socket's default queue several times over, so one
read takes all that waits; pages that are never reached cost nothing."""
RECEIVE_TAIL_BYTES_MIN: Final = 64 << 10
"""Less room than this at the end of a buffer is not read into: a read that
small would break a batch of requests apart."""
OWN_PAYLOAD_BYTES_MIN: Final = 64 << 10
"""A WRITE this long that does not fit gets a buffer of its own, filled from the
socket; a shorter one is moved to the start of the next buffer, which is cheaper."""


@dataclass(frozen=True, slots=True)
class NbdLimits:
    """Every bound of the NBD server that may sensibly differ; tests shrink them."""

    handshake_seconds: float = 10.0
    """From accept to transmission; qemu-nbd allows the same. Established
    connections may idle for ever."""
    farewell_seconds: float = 0.5
    """How long a server that closes goes on telling those who negotiate why: time
    for a question on its way, and for its client to leave."""
    connections_max: int = 100
    """Connections past their handshake, as qemu's default; more are closed at once."""
    handshakes_max: int = 200
    """Connections in their handshake; beyond, the oldest makes room for the newest.
    More than `backlog_connections`, which may all be accepted in one turn."""
    connections_per_export_max: int = 50
    """Open connections to one export, so that the clients of one, or a device that
    hangs under it, leave room for the others."""
    requests_in_flight_max: int = 128
    """Per connection: the depth of one queue of Linux's nbd driver. At the bound
    the socket is not read until something completes."""
    bytes_in_flight_max: int = 64 << 20
    """Payload of READs and WRITEs in flight per connection; a lone request may
    reach `payload_bytes_max` even if this is less."""
    daemon_bytes_in_flight_max: int = 512 << 20
    """The same over all connections of a daemon, see `common.nbd.budget`."""
    progress_seconds: float = 60.0
    """A request that has begun to arrive goes on within this time, or its
    connection is aborted, see `common.nbd.progress`."""
    reply_seconds: float = 60.0
    """So does a client that takes its replies."""
    payload_bytes_max: int = 64 << 20
    """Longest READ or WRITE served. 32 MiB is advertised, but clients that never
    asked send up to 48 MiB."""
    payload_bytes_drained_max: int = 128 << 20
    """A longer WRITE than served, up to here, is read, dropped and answered with
    an error; beyond, the connection is closed."""
    receive_buffers_max: int = 8
    """Receive buffers per connection that WRITEs in flight may hold."""
    write_buffer_bytes_max: int = 4 << 20
    """Replies queued for a slow reader before its requests are left unread."""
    options_max: int = 32
    """Options one handshake may use; as many again for each export told by LIST."""
    option_data_bytes_max: int = 64 << 10
    """Beyond, the connection is closed. No legal option needs more than a name and
    its queries; those end at 4096 bytes each, which is the protocol's own rule."""
    queries_max: int = 1024
    """Queries in one LIST_META_CONTEXT or SET_META_CONTEXT."""
    keepalive_idle_seconds: int = 30
    keepalive_interval_seconds: int = 10
    keepalive_probes: int = 6
    """A TCP peer that vanished while nothing was sent is noticed within a minute
    and a half instead of after hours; a connection that merely idles lives on."""
    user_timeout_seconds: float = 60.0
    """What was sent over TCP is acknowledged within this time."""
    backlog_connections: int = 128
    """Connections that wait to be accepted, as systems' SOMAXCONN of old."""

    def __post_init__(self) -> None:
        assert self.requests_in_flight_max > 0
        assert self.receive_buffers_max > 0
        assert self.handshakes_max > 0
        assert self.connections_per_export_max > 0
        assert self.daemon_bytes_in_flight_max > 0
        assert self.farewell_seconds >= 0
        assert self.progress_seconds > 0
        assert self.reply_seconds > 0
        assert self.payload_bytes_max <= self.payload_bytes_drained_max
        assert self.options_max > 0
        assert self.option_data_bytes_max >= 2 * NAME_BYTES_MAX
        assert self.queries_max > 0
        assert self.keepalive_idle_seconds > 0
        assert self.keepalive_interval_seconds > 0
        assert self.keepalive_probes > 0
        assert self.user_timeout_seconds > 0
