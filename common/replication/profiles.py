"""Kinds of links: the rate and the window that pace sending over each.

Pure. The rates are what the line carries for its users; a group that shares a line,
or pays for less of it, says so by `bandwidth`.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Profile:
    """`rate` in bytes a second, None: not paced. `window_bytes`: raw bytes that may be
    sent and not yet durable at the remote; the remote's own window bounds it too.
    `each_link`: the rate is that of each connection, not of all together."""

    rate: int | None
    window_bytes: int
    each_link: bool = False


PROFILES: dict[str, Profile] = {
    # ITU-T G.704 and G.702: 1.544 and 44.736 Mbit/s.
    "t1": Profile(193_000, 4 * MIB),
    "t3": Profile(5_592_000, 16 * MIB),
    # IBM's fibre to a control unit: 17 MB/s, of 200 Mbit/s on the glass.
    "escon": Profile(17_000_000, 16 * MIB),
    # The parallel (bus and tag) channel at its fastest: 4.5 MB/s.
    "channel": Profile(4_500_000, 16 * MIB),
    # 1 Gbit/s a lane; a connection stands for a lane.
    "fibre-channel": Profile(100_000_000, 16 * MIB, each_link=True),
    "custom": Profile(None, 16 * MIB),
}
