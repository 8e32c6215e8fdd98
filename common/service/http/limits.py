"""What clients of the HTTP listener may use up; only tests change the numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """A few monitoring systems and a few people; nothing here serves the public."""

    connections_max: int = 32
    """One more ends the one that has been silent for longest, if there is one; else it
    waits in the system's queue."""
    streams_max: int = 8
    """Answers that go on for ever: pages that are being watched."""
    head_bytes_max: int = 16 << 10
    """Request line and headers of one request."""
    head_seconds_max: float = 20.0
    """From the connection, or the answer before, to a request's last header."""
    work_seconds_max: float = 10.0
    """To make an answer; a group that hangs answers by its last status within 1 s."""
    write_seconds_max: float = 10.0
    """To take an answer, or a piece of one that goes on."""
    requests_per_connection_max: int = 1000
    turns_per_second: float = 50.0
    """Connections and requests taken in a second, of all clients together: others wait.
    An answer costs about a millisecond of the one core that hosts are served by."""
    turns_at_once: int = 50
    """After a quiet time so many are taken at once."""
