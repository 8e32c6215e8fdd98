"""Pacing between real daemons: a rate is held, and changes without a new session."""

from __future__ import annotations

import random
from pathlib import Path

from tests.integration.test_reload_on_sighup import told
from tests.support.sites import Pair, VolumeSpec

MIB = 1 << 20
SIZE = 8 * MIB
RATE = 2 * MIB
AHEAD_BYTES = MIB
"""What the bucket's burst and a frame may be ahead of the rate."""


async def fill(pair: Pair, seed: int, size: int) -> dict[str, float]:
    """Write random bytes and have them committed; return what the cycle cost."""
    client = await pair.primary.nbd("g/v")
    try:
        await client.write(0, random.Random(seed).randbytes(size))
    finally:
        await client.disconnect()
    await pair.cut()
    found: dict[str, float] = pair.primary.group()["last_cycle"]
    assert found["bytes_on_wire"] >= size
    return found


def check_rate(cycle: dict[str, float]) -> None:
    """Never more than the rate lets through; how much less is the machine's affair."""
    allowed = RATE * 1.05 * cycle["drain_seconds"] + AHEAD_BYTES
    assert cycle["bytes_on_wire"] <= allowed
    assert cycle["drain_seconds"] < 60


def link(**keys: object) -> dict[str, object]:
    return {"connections": 2, "compression": "off", **keys}


async def test_a_rate_holds_over_all_links_and_a_reload_changes_it(
    tmp_path: Path,
) -> None:
    volumes = [VolumeSpec("v", SIZE)]
    with Pair(tmp_path, volumes, link=link(bandwidth="2MiB/s")) as pair:
        await pair.start()
        assert pair.primary.group()["link"]["rate_bytes_per_second"] == RATE
        check_rate(await fill(pair, 1, SIZE))

        pair.link_options = link(bandwidth="2MiB/s", profile="t1")
        pair.write_configs()
        await told(pair.primary, "config_reloaded")
        assert pair.primary.group()["link"]["rate_bytes_per_second"] == RATE

        pair.link_options = link(profile="escon")
        pair.write_configs()
        await told(pair.primary, "config_reloaded", 2)
        assert pair.primary.group()["link"]["rate_bytes_per_second"] == 17_000_000
        await fill(pair, 2, SIZE)

        entry = "* 00:00-24:00 2MiB/s"
        pair.link_options = link(profile="escon", bandwidth_schedule=[entry])
        pair.write_configs()
        await told(pair.primary, "config_reloaded", 3)
        check_rate(await fill(pair, 3, SIZE))

        assert not pair.primary.events("config_key_not_applied")
        assert len(pair.remote.events("session_opened")) == 1
