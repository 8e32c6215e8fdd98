"""A switchover with a site killed in its middle: it ends as if nobody had been."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.support.exchanging_pair import ExchangingPair
from tests.support.sites import VolumeSpec, until

MIB = 1 << 20
TRACK = 4096


@pytest.mark.parametrize("killed", ["sender", "receiver"])
@pytest.mark.hunt
async def test_a_switchover_goes_on_by_itself_whoever_is_killed(
    tmp_path: Path, killed: str
) -> None:
    with ExchangingPair(tmp_path, [VolumeSpec("v", 4 * MIB)]) as pair:
        await pair.start()
        chance = random.Random(6)
        host = await pair.primary.nbd("g/v")
        await host.write(0, chance.randbytes(MIB))
        await host.flush()
        written = bytes(await pair.primary.read_whole("g/v"))

        asked = asyncio.create_task(
            pair.command(pair.primary, "switchover", "g", "--yes")
        )
        await until(
            lambda: bool(pair.primary.events("group_handed_over")), "it is handed over"
        )
        machine = pair.primary if killed == "sender" else pair.remote
        machine.kill()
        await machine.start()

        await pair.reached(pair.remote, "the remote sends", role="sending")
        await pair.reached(pair.primary, "the primary receives", role="receiving")
        await asked
        assert bytes(await pair.remote.read_whole("g/v")) == written
        host = await pair.remote.nbd("g/v")
        await host.write(MIB, chance.randbytes(TRACK))
        await host.flush()
        before = pair.primary.group()["recovery_point"]["number"]
        await pair.received(pair.primary, before)
        now = bytes(await pair.remote.read_whole("g/v"))
        assert bytes(await pair.primary.read_whole("g/v")) == now
