"""After the disaster: the old primary returns, receives, and gets its role back."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.support.exchanging_pair import ExchangingPair
from tests.support.nbd_client import NbdReplyError
from tests.support.sites import Daemon, VolumeSpec, until

MIB = 1 << 20
TRACK = 4096
ODD = 3 * MIB + 1536
VOLUMES = [VolumeSpec("v", 8 * MIB), VolumeSpec("w", ODD)]


async def written(daemon: Daemon, seed: int, count: int = 30) -> int:
    """Write at random places of both volumes; return the tracks that changed."""
    chance, tracks = random.Random(seed), 0
    for volume in VOLUMES:
        host = await daemon.nbd(f"g/{volume.name}")
        for track in chance.sample(range(volume.size_bytes // TRACK), count):
            await host.write(track * TRACK, chance.randbytes(TRACK))
            tracks += 1
        await host.flush()
        await host.disconnect()
    return tracks


async def served(daemon: Daemon, suffix: str = "") -> dict[str, bytes]:
    names = [volume.name for volume in VOLUMES]
    return {n: bytes(await daemon.read_whole(f"g/{n}{suffix}")) for n in names}


async def lost_and_taken_over(pair: ExchangingPair) -> tuple[dict[str, bytes], int]:
    """Return what the primary had when it was killed, and how many tracks unsent."""
    await pair.start()
    await written(pair.primary, 1, 200)
    await pair.cut()
    unsent = await written(pair.primary, 2)
    own = {volume.name: pair.content(volume.name) for volume in VOLUMES}
    pair.primary.kill()
    await pair.reached(pair.remote, "the loss is noticed", state="disconnected")
    await pair.done(pair.remote, "takeover", "g")
    return own, unsent


async def cut(pair: ExchangingPair) -> None:
    """Have the remote, which sends, bring all it has to the primary."""
    await pair.reached(pair.remote, "it sends", role="sending")
    await until(
        lambda: pair.remote.group()["link"]["state"] == "connected", "it is connected"
    )
    found = await pair.command(pair.remote, "cut", "g", "--wait")
    assert found.returncode == 0, found.stderr


def step(daemon: Daemon) -> str | None:
    """Return where an exchange of roles stands, as a site sees it."""
    found = daemon.group()["role_change"]
    return found["step"] if found else None


async def shown(pair: ExchangingPair, daemon: Daemon) -> str:
    """Return what `farshore status` says at a site."""
    return (await pair.command(daemon, "status")).stdout


def sent_bytes(daemon: Daemon) -> int:
    """Return what all cycles of a site have brought on the wire."""
    return sum(e.get("bytes_on_wire", 0) for e in daemon.events("cycle_committed"))


async def test_an_old_primary_gets_what_either_side_changed_and_keeps_its_own(
    tmp_path: Path,
) -> None:
    with ExchangingPair(tmp_path, VOLUMES) as pair:
        own, unsent = await lost_and_taken_over(pair)
        assert step(pair.remote) == "taken_over"
        changed = unsent + await written(pair.remote, 3)

        await pair.primary.start()
        await pair.reached(pair.primary, "it is told", state="superseded")
        host = await pair.primary.nbd("g/v")
        with pytest.raises(NbdReplyError):
            await host.write(0, bytes(TRACK))
        assert bytes(await host.read(0, TRACK)) == own["v"][:TRACK]
        await until(lambda: bool(pair.primary.group()["alarms"]), "it says so")
        (alarm,) = pair.primary.group()["alarms"]
        assert alarm["name"] == "superseded"
        forked = pair.primary.group()["role_change"]
        assert forked == {**pair.remote.group()["role_change"], "step": "superseded"}
        assert (
            f"from point {forked['point']}, cut at {forked['cut_time']}"
            in (alarm["message"])
        )
        assert "farshore failback g" in alarm["message"]
        assert "next: farshore failback g (here)" in await shown(pair, pair.primary)
        there = await shown(pair, pair.remote)
        assert f"g: taken over from point {forked['point']}, cut at" in there
        assert "next: farshore failback g (at the other site)" in there
        assert await served(pair.primary) == own
        refused = await pair.command(pair.remote, "failback", "g", "--yes")
        assert refused.returncode == 8
        assert "nothing to fail back to" in refused.stderr

        told = await pair.done(pair.primary, "failback", "g")
        number = await pair.received(pair.primary, told["fork"])
        assert number > told["fork"]
        assert step(pair.primary) is None
        assert pair.primary.group()["history"]["forks"] == 1
        assert await served(pair.primary) == await served(pair.remote)
        assert await served(pair.primary, f"@{told['fork']}") == own
        assert sent_bytes(pair.remote) <= 1.2 * TRACK * changed

        # The remote serves on meanwhile, and what it writes comes, too.
        await written(pair.remote, 4)
        pair.primary.kill()
        await pair.primary.start()
        await cut(pair)
        at_remote = await served(pair.remote)
        assert await served(pair.primary) == at_remote
        assert await served(pair.primary, f"@{told['fork']}") == own

        assert "next: farshore switchover g (here)" in await shown(pair, pair.remote)
        # A switchover returns the roles.
        await pair.done(pair.remote, "switchover", "g")
        await pair.reached(pair.remote, "it receives", role="receiving")
        await pair.reached(pair.primary, "it sends", role="sending")
        assert await served(pair.primary) == at_remote
        await written(pair.primary, 5)
        await pair.connected()
        before = sent_bytes(pair.primary)
        await pair.cut()
        assert await served(pair.remote) == await served(pair.primary)
        assert sent_bytes(pair.primary) - before <= 1.2 * TRACK * 60
        assert await served(pair.primary, f"@{told['fork']}") == own
        listed = await pair.command(pair.primary, "forks", "list", "g", "--json")
        assert [fork["number"] for fork in json.loads(listed.stdout)] == [told["fork"]]
