"""Two sites that serve one group: each says so, and an operator chooses a side."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import free_port
from tests.support.exchanging_pair import ExchangingPair
from tests.support.nbd_client import NbdReplyError
from tests.support.sites import Daemon, VolumeSpec, until

MIB = 1 << 20
TRACK = 4096


async def written(daemon: Daemon, seed: int) -> bytes:
    """Write some tracks at a site; return what it serves then."""
    chance = random.Random(seed)
    host = await daemon.nbd("g/v")
    for track in chance.sample(range(MIB // TRACK), 20):
        await host.write(track * TRACK, chance.randbytes(TRACK))
    await host.flush()
    await host.disconnect()
    return bytes(await daemon.read_whole("g/v"))


def aim_link(pair: ExchangingPair, port: int) -> None:
    """Have the remote, which is stopped, dial that port from its next start on."""
    path = pair.remote.config_path
    found = re.sub(
        r'remotes = \["[^"]*"\]', f'remotes = ["127.0.0.1:{port}"]', path.read_text()
    )
    path.write_text(found)


def alarms(daemon: Daemon) -> dict[str, str]:
    return {alarm["name"]: alarm["message"] for alarm in daemon.group()["alarms"]}


async def taken_over(pair: ExchangingPair) -> tuple[bytes, dict[str, Any], bytes]:
    """Kill a primary with more than its remote has, which takes over and writes.

    Return what the primary has, the answer of the takeover, and what the remote has.
    """
    await pair.start()
    await written(pair.primary, 1)
    await pair.cut()
    own = await written(pair.primary, 2)
    pair.primary.kill()
    await pair.reached(pair.remote, "the loss is noticed", state="disconnected")
    taken = await pair.done(pair.remote, "takeover", "g")
    return own, taken, await written(pair.remote, 3)


async def test_a_superseded_site_goes_on_from_its_own_data_if_told_to(
    tmp_path: Path,
) -> None:
    with ExchangingPair(tmp_path, [VolumeSpec("v", MIB)]) as pair:
        own, taken, theirs = await taken_over(pair)

        await pair.primary.start()
        await pair.reached(pair.primary, "it is told", state="superseded")
        await until(
            lambda: (
                "farshore failback g there" in alarms(pair.remote).get("refused", "")
            ),
            "the remote says what the other one is",
        )
        plain = await pair.command(pair.primary, "takeover", "g", "--yes")
        assert plain.returncode == 8
        assert "say --force" in plain.stderr
        assert pair.primary.group()["state"] == "superseded"

        told = await pair.done(pair.primary, "takeover", "g", "--force")
        assert told["is_reclaimed"]
        assert told["parent"] == taken["lineage"]
        assert told["lineage"] not in {taken["lineage"], taken["parent"]}
        assert bytes(await pair.primary.read_whole("g/v")) == own
        own = await written(pair.primary, 4)
        # Both serve until the other one has heard of it.
        await pair.reached(pair.remote, "it is told", state="superseded")
        host = await pair.remote.nbd("g/v")
        with pytest.raises(NbdReplyError):
            await host.write(0, bytes(TRACK))
        assert bytes(await pair.remote.read_whole("g/v")) == theirs

        pair.primary.kill()
        pair.remote.kill()
        await pair.remote.start()
        await pair.primary.start()
        assert pair.remote.group()["state"] == "superseded"
        assert bytes(await pair.primary.read_whole("g/v")) == own

        kept = await pair.done(pair.remote, "failback", "g")
        await pair.received(pair.remote, kept["fork"])
        await pair.connected()
        own = await written(pair.primary, 5)
        await pair.cut()
        assert bytes(await pair.remote.read_whole("g/v")) == own
        assert bytes(await pair.remote.read_whole(f"g/v@{kept['fork']}")) == theirs
        assert pair.remote.group()["alarms"] == []


@pytest.mark.hunt
async def test_who_gave_up_and_received_nothing_goes_on_from_that_if_told_to(
    tmp_path: Path,
) -> None:
    """The site that it was to receive from has gone, or is an older copy of itself."""
    with ExchangingPair(tmp_path, [VolumeSpec("v", MIB)]) as pair:
        own, taken, theirs = await taken_over(pair)
        await pair.primary.start()
        await pair.reached(pair.primary, "it is told", state="superseded")
        pair.remote.kill()
        kept = await pair.done(pair.primary, "failback", "g")
        plain = await pair.command(pair.primary, "takeover", "g", "--yes")
        assert plain.returncode == 8
        assert f"say --force to go on from point {kept['fork']}" in plain.stderr

        told = await pair.done(pair.primary, "takeover", "g", "--force")
        assert (told["point"], told["parent"]) == (kept["fork"], taken["lineage"])
        assert bytes(await pair.primary.read_whole("g/v")) == own
        own = await written(pair.primary, 4)

        await pair.remote.start()
        await pair.reached(pair.remote, "it is told", state="superseded")
        assert "may be an older copy" in alarms(pair.remote)["superseded"]
        kept = await pair.done(pair.remote, "failback", "g")
        await pair.received(pair.remote, kept["fork"])
        assert bytes(await pair.remote.read_whole("g/v")) == own
        assert bytes(await pair.remote.read_whole(f"g/v@{kept['fork']}")) == theirs


@pytest.mark.hunt
@pytest.mark.parametrize("keeps", ["remote", "primary"])
async def test_a_split_brain_is_said_at_both_sites_with_what_chooses_a_side(
    tmp_path: Path, keeps: str
) -> None:
    with ExchangingPair(tmp_path, [VolumeSpec("v", MIB)]) as pair:
        await pair.start()
        await written(pair.primary, 1)
        await pair.cut()
        pair.primary.kill()
        await pair.reached(pair.remote, "the loss is noticed", state="disconnected")
        taken = await pair.done(pair.remote, "takeover", "g")
        # The remote is away while an operator has the old primary go on.
        await pair.primary.start()
        await pair.reached(pair.primary, "it is told", state="superseded")
        await pair.remote.stop()
        told = await pair.done(pair.primary, "takeover", "g", "--force")
        own = await written(pair.primary, 2)
        # It hears of the primary only what that one says.
        aim_link(pair, free_port())
        await pair.remote.start()
        theirs = await written(pair.remote, 3)

        for daemon in (pair.primary, pair.remote):
            await until(
                lambda daemon=daemon: "split_brain" in alarms(daemon), "it is said"
            )
            text = alarms(daemon)["split_brain"]
            assert daemon.group()["role_change"]["step"] == "split_brain"
            assert taken["lineage"] in text
            assert told["lineage"] in text
            assert "farshore failback g" in text
            assert "farshore takeover g --force" in text
            told_here = (await pair.command(daemon, "status")).stdout
            assert told_here.count("next: To keep ") == 2
        assert bytes(await pair.primary.read_whole("g/v")) == own
        assert bytes(await pair.remote.read_whole("g/v")) == theirs

        if keeps == "primary":
            await pair.done(pair.primary, "takeover", "g", "--force")
            await pair.remote.stop()
            aim_link(pair, pair.back_port)
            await pair.remote.start()
            await pair.reached(pair.remote, "it is told", state="superseded")
            kept = await pair.done(pair.remote, "failback", "g")
            loser, winner, kept_data, lost_data = pair.remote, pair.primary, own, theirs
        else:
            kept = await pair.done(pair.primary, "failback", "g")
            await pair.remote.stop()
            aim_link(pair, pair.back_port)
            await pair.remote.start()
            loser, winner, kept_data, lost_data = pair.primary, pair.remote, theirs, own
        await pair.received(loser, kept["fork"])
        assert bytes(await winner.read_whole("g/v")) == kept_data
        assert bytes(await loser.read_whole("g/v")) == kept_data
        assert bytes(await loser.read_whole(f"g/v@{kept['fork']}")) == lost_data
