"""A first copy that is interrupted again and again: what each interruption costs.

What travels is counted by a proxy between the sites. A lost link, or a restart of the
remote, has at most one credit window sent again; a restart of the primary that, and
hashes of what it may have sent. FARSHORE_LOSSES=100 takes the link away so often, in
a volume large enough for it: FARSHORE_LOSS_EVERY_MIB times as many MiB.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.replication.cycle_messages import HASH_BYTES
from primary_site.group_state import SENT_AHEAD_BYTES
from remote_site.receiver import WINDOW_BYTES
from tests.support import evidence
from tests.support.sites import Daemon, Pair, VolumeSpec, free_port, until
from tests.support.tcp_proxy import TcpProxy

LOSSES = int(os.environ.get("FARSHORE_LOSSES", "20"))
SEED = int(os.environ.get("FARSHORE_SEED", "1"))
LOSS_EVERY_MIB = int(os.environ.get("FARSHORE_LOSS_EVERY_MIB", "10"))
RESTARTS = int(os.environ.get("FARSHORE_RESTARTS", "4"))

MIB = 1 << 20
TRACK_BYTES = 4096
OVERHEAD_SHARE = 0.01
"""Of what travels: headers of frames and records."""

OVERHEAD_BYTES = 64 << 10
"""Of one session: hello, heartbeats, and what was under way beside tracks."""


class FirstCopy:
    """A first copy under way, and what of it has travelled."""

    def __init__(self, pair: Pair, proxy: TcpProxy, size_bytes: int) -> None:
        self.pair = pair
        self.proxy = proxy
        self.size_bytes = size_bytes

    async def goes_on(self, by_bytes: int) -> None:
        """Return once so much more has travelled, and something is acknowledged."""
        sent, left = self.proxy.forwarded_bytes, self._left()
        await until(
            lambda: (
                self.proxy.forwarded_bytes - sent >= by_bytes and self._left() < left
            ),
            "the copy goes on",
        )
        assert self.pair.primary.group()["state"] == "first_copy", "through too early"

    def _left(self) -> int:
        return int(self.pair.primary.group()["out_of_sync_bytes"])

    async def ends(self) -> None:
        await until(
            lambda: self.pair.primary.group()["recovery_point"] is not None,
            "the first copy is committed",
        )
        pair = self.pair
        assert filecmp.cmp(pair.secondary("v"), pair.device("v"), shallow=False)

    def again_bytes(self, interruptions: int) -> int:
        """Return what has travelled beyond the volume itself, once."""
        least = self.size_bytes * (1 + OVERHEAD_SHARE) + OVERHEAD_BYTES * interruptions
        return int(self.proxy.forwarded_bytes - least)


@contextlib.asynccontextmanager
async def first_copy(directory: Path, size_bytes: int) -> AsyncIterator[FirstCopy]:
    port = free_port()
    with Pair(
        directory,
        [VolumeSpec("v", size_bytes, {"track_size": "4KiB"})],
        group={"interval": "1h"},
        link={"compression": "off"},
        link_port=port,
    ) as pair:
        chance = random.Random(SEED)
        with pair.device("v").open("wb") as device:
            for _ in range(size_bytes // MIB):
                device.write(chance.randbytes(MIB))
        proxy = TcpProxy(pair.replication_port)
        await proxy.start(port)
        try:
            await pair.start()
            yield FirstCopy(pair, proxy, size_bytes)
        finally:
            await proxy.close()


async def test_a_link_lost_often_costs_a_window_each_time(tmp_path: Path) -> None:
    async with first_copy(tmp_path, LOSSES * LOSS_EVERY_MIB * MIB) as copy:
        for _ in range(LOSSES):
            await copy.goes_on(LOSS_EVERY_MIB * MIB // 4)
            copy.proxy.reset()
        await copy.ends()
        again = copy.again_bytes(LOSSES)
        assert again <= LOSSES * WINDOW_BYTES
        evidence.record(
            "resume",
            "pytest tests/integration/test_resume.py",
            {
                "losses": LOSSES,
                "volume_bytes": copy.size_bytes,
                "again_bytes": max(again, 0),
                "again_bytes_per_loss": max(again, 0) // LOSSES,
                "window_bytes": WINDOW_BYTES,
            },
        )


@pytest.mark.parametrize("role", ["primary", "remote"])
@pytest.mark.hunt
async def test_a_killed_daemon_costs_a_window_and_hashes(
    tmp_path: Path, role: str
) -> None:
    hashes_bytes = 0
    if role == "primary":
        hashes_bytes = SENT_AHEAD_BYTES // TRACK_BYTES * HASH_BYTES
    async with first_copy(tmp_path, RESTARTS * 48 * MIB) as copy:
        daemon: Daemon = getattr(copy.pair, role)
        for _ in range(RESTARTS):
            await copy.goes_on(24 * MIB)
            daemon.kill()
            await daemon.start()
            await copy.pair.connected()
        await copy.ends()
        again, bound = copy.again_bytes(RESTARTS), WINDOW_BYTES + hashes_bytes
        assert again <= RESTARTS * bound
        evidence.record(
            f"resume_{role}",
            "pytest tests/integration/test_resume.py",
            {
                "restarts": RESTARTS,
                "volume_bytes": copy.size_bytes,
                "again_bytes": max(again, 0),
                "again_bytes_per_restart": max(again, 0) // RESTARTS,
                "bound_bytes_per_restart": bound,
            },
        )
