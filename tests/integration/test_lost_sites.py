"""A site that has lost its state, and one that claims to be another."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

from common.cli.exit_codes import EXIT_CODES
from common.nbd.protocol import TransmissionFlag
from tests.support.exchanging_pair import ExchangingPair
from tests.support.sites import Pair, VolumeSpec, run_cli, until

MIB = 1 << 20
CODES = {kind: code for code, kind, _ in EXIT_CODES}
VOLUMES = [VolumeSpec("v", 8 * MIB, {"track_size": "4KiB"}), VolumeSpec("w", 2 * MIB)]


async def write(pair: Pair, offset: int, length: int) -> None:
    host = await pair.primary.nbd("g/v")
    await host.write(offset, os.urandom(length), fua=True)
    await host.disconnect()


def refused_link(pair: Pair) -> bool:
    return str(pair.primary.group()["link"]["state"]) == "refused"


def is_alone(pair: Pair) -> bool:
    return str(pair.remote.group()["link"]["state"]) != "connected"


async def test_a_primary_without_its_state_goes_on_without_a_full_copy(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, VOLUMES, group={"rpo": "4s"}) as pair:
        await pair.start()
        await write(pair, 0, 6 * MIB)
        await pair.cut()
        first = pair.remote.call("points", group="g")[0]["number"]
        asked = ("identity", "g", "--socket", pair.remote.control_socket)
        connected = await asyncio.to_thread(run_cli, *asked)
        assert connected.returncode == CODES["refused"]
        assert "it has lost nothing" in connected.stderr

        pair.primary.kill()
        shutil.rmtree(pair.primary.state_directory)
        with pair.device("v").open("r+b") as device:  # and something else was lost
            device.seek(MIB)
            device.write(os.urandom(8192))
        await pair.primary.start()  # as it would be: another group of the same name
        await until(lambda: refused_link(pair), "the remote refuses it")
        lineage = pair.remote.group()["lineage"]
        await pair.primary.stop()

        told = await asyncio.to_thread(run_cli, *asked)
        assert told.returncode == 0, told.stderr
        identity = tmp_path / "identity.json"
        identity.write_text(told.stdout)
        words = ("adopt", "g", "--identity", str(identity), "--yes", "--json")
        config = ("--config", str(pair.primary.config_path))
        present = await asyncio.to_thread(run_cli, *words, *config)
        assert present.returncode == CODES["refused"]
        assert "farshore forget" in present.stderr
        forgot = await asyncio.to_thread(run_cli, "forget", "g", "--yes", *config)
        assert forgot.returncode == 0, forgot.stderr
        taken = await asyncio.to_thread(run_cli, *words, *config)
        assert taken.returncode == 0, taken.stderr
        assert json.loads(taken.stdout) == {"group": "g", "point": first}

        def age() -> float:
            return float(pair.remote.group()["recovery_point_age_seconds"])

        await until(lambda: age() > 4, "the newest point is of long before")
        await pair.primary.start()
        await pair.connected()
        cut = await pair.cut()
        causes = [each["cause"] for each in pair.primary.events("rpo_breached")]
        assert None not in causes, "hosts have done nothing to be blamed for"
        assert cut["number"] > first
        assert pair.remote.group()["lineage"] == lineage
        cycle = pair.primary.group()["last_cycle"]
        assert cycle["bytes_on_wire"] < MIB, "hashes, and what differs"
        for name in ("v", "w"):
            assert await pair.remote.read_whole(f"g/{name}") == pair.content(name)
        await write(pair, 5 * MIB, 4096)
        await pair.cut()
        assert await pair.remote.read_whole("g/v") == pair.content("v")


async def test_who_has_lost_its_state_receives_from_the_site_that_took_over(
    tmp_path: Path,
) -> None:
    """Of "v" the device is there, of "w" it is gone: as at a new site."""
    with ExchangingPair(tmp_path, VOLUMES) as pair:
        await pair.start()
        await write(pair, 0, 6 * MIB)
        small = await pair.primary.nbd("g/w")
        await small.write(MIB, os.urandom(8192), fua=True)
        await small.disconnect()
        await pair.cut()
        await write(pair, 7 * MIB, 8192)  # which no point has
        asked = await pair.command(pair.primary, "identity", "g")
        assert asked.returncode == CODES["refused"]
        assert "accept_existing" in asked.stderr

        pair.primary.kill()
        own = pair.content("v")
        await until(lambda: is_alone(pair), "the remote has noticed")
        await pair.done(pair.remote, "takeover", "g")
        host = await pair.remote.nbd("g/v")
        await host.write(2 * MIB, os.urandom(8192), fua=True)
        await host.disconnect()
        shutil.rmtree(pair.primary.state_directory)
        pair.device("w").unlink()

        told = await pair.command(pair.remote, "identity", "g")
        assert told.returncode == 0, told.stderr
        identity = tmp_path / "identity.json"
        identity.write_text(told.stdout)
        words = ("adopt", "g", "--identity", str(identity))
        config = ("--config", str(pair.primary.config_path))
        declined = await asyncio.to_thread(run_cli, *words, *config, input="n\n")
        assert declined.returncode == 1
        assert "comes back superseded" in declined.stderr
        assert not pair.device("w").exists()
        taken = await asyncio.to_thread(run_cli, *words, "--yes", *config)
        assert taken.returncode == 0, taken.stderr
        assert "failback g" in taken.stdout

        pair.remote.pause()  # it knows by itself, before it hears of the other one
        await pair.primary.start()
        assert pair.primary.group()["state"] == "superseded"
        pair.remote.resume()
        host = await pair.primary.nbd("g/v")
        assert host.info.flags & TransmissionFlag.READ_ONLY, "it was given up"
        await host.disconnect()
        fork = (await pair.done(pair.primary, "failback", "g"))["fork"]
        await pair.received(pair.primary, fork)
        sent = pair.remote.group()["last_cycle"]
        assert sent["bytes_on_wire"] < MIB, "hashes, and what differs"
        for name in ("v", "w"):
            assert pair.content(name) == pair.secondary(name).read_bytes()
        assert await pair.primary.read_whole(f"g/v@{fork}") == own
        again = await pair.command(pair.remote, "identity", "g")
        assert "it has lost nothing" in again.stderr


async def test_a_forgotten_group_begins_anew_and_keeps_its_devices(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        await write(pair, 0, MIB)
        await pair.cut()
        words = ("forget", "g", "--config", str(pair.remote.config_path))
        busy = await asyncio.to_thread(run_cli, *words, "--yes")
        assert busy.returncode == CODES["busy"]
        await pair.primary.stop()
        await pair.remote.stop()
        before = pair.secondary("v").read_bytes()

        asked = await asyncio.to_thread(run_cli, *words, input="n\n")
        assert asked.returncode == 1
        assert "recovery point 1, the only one" in asked.stderr
        assert "nothing was changed" in asked.stderr
        unheard = await asyncio.to_thread(run_cli, *words, input="")
        assert unheard.returncode == 1
        assert "nobody is there to answer; --yes says it" in unheard.stderr
        assert (pair.remote.state_directory / "groups/g/store").exists()
        done = await asyncio.to_thread(run_cli, *words, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["points"] == [1]
        assert list((pair.remote.state_directory / "groups").iterdir()) == []
        assert list((pair.remote.state_directory / "journal").iterdir()) == []
        assert pair.secondary("v").read_bytes() == before
        again = await asyncio.to_thread(run_cli, *words, "--yes")
        assert again.returncode == CODES["refused"]

        # The devices are there: allowed to, the remote takes them, compared by hashes.
        text = pair.remote.config_path.read_text()
        assert text.count("[[group.volume]]\n") == len(VOLUMES)
        text = text.replace(
            "[[group.volume]]\n", "[[group.volume]]\naccept_existing = true\n"
        )
        pair.remote.config_path.write_text(text)
        await pair.start()
        await write(pair, MIB, 4096)
        await pair.cut()
        assert pair.primary.group()["last_cycle"]["bytes_on_wire"] < MIB // 2
        assert await pair.remote.read_whole("g/v") == pair.content("v")


async def test_two_primaries_that_claim_one_group_never_mix(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Pair(tmp_path, VOLUMES) as pair:
        port = pair.replication_port
        with Pair(tmp_path / "other", VOLUMES, link_port=port) as other:
            await pair.start()
            await write(pair, 0, MIB)
            await pair.cut()
            await other.primary.start()
            await write(other, 0, MIB)
            await until(lambda: refused_link(other), "the second is refused")
            await write(pair, 0, MIB)
            await pair.cut()
            assert await pair.remote.read_whole("g/v") == pair.content("v")
            # Also while the first is away: it is bound, not merely connected.
            await pair.primary.stop()
            alarms = [alarm["name"] for alarm in pair.remote.group()["alarms"]]
            assert "peer_refused" in alarms
            assert refused_link(other)
            assert await pair.remote.read_whole("g/v") == pair.content("v")
            await other.primary.stop()
