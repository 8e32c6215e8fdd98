"""Lost, taken over, failed back and switched back, and all of it once more."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Certificates
from tests.support.changing_group import KeepingPair, fill
from tests.support.daemon import run_cli
from tests.support.exchanging_pair import ExchangingPair
from tests.support.sites import Daemon, VolumeSpec, toml, until

MIB = 1 << 20
TRACK = 4096


async def written(daemon: Daemon, seed: int) -> bytes:
    """Write some tracks at a site, up to its end; return what it serves then."""
    chance = random.Random(seed)
    host = await daemon.nbd("g/v")
    size_bytes = host.info.size_bytes
    tracks = chance.sample(range(size_bytes // TRACK), 20)
    for offset in (*(track * TRACK for track in tracks), size_bytes - TRACK):
        await host.write(offset, chance.randbytes(TRACK))
    await host.flush()
    await host.disconnect()
    return bytes(await daemon.read_whole("g/v"))


async def grown(pair: ExchangingPair, daemon: Daemon, size_bytes: int) -> None:
    words = ("grow", "g/v", str(size_bytes), "--json")
    found = await pair.command(daemon, *words)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["size_bytes"] == size_bytes


async def lost_and_taken_over(pair: ExchangingPair) -> None:
    pair.primary.kill()
    await pair.reached(pair.remote, "the loss is noticed", state="disconnected")
    await pair.done(pair.remote, "takeover", "g")


async def failed_back(pair: ExchangingPair, own: bytes) -> bytes:
    """Bring the old primary back in; return what both sites have then."""
    await pair.primary.start()
    await pair.reached(pair.primary, "it is told", state="superseded")
    told = await pair.done(pair.primary, "failback", "g")
    await pair.received(pair.primary, told["fork"])
    both = bytes(await pair.remote.read_whole("g/v"))
    assert bytes(await pair.primary.read_whole("g/v")) == both
    assert bytes(await pair.primary.read_whole(f"g/v@{told['fork']}")) == own
    return both


async def switched_back(pair: ExchangingPair) -> None:
    await pair.done(pair.remote, "switchover", "g")
    await pair.reached(pair.primary, "it sends", role="sending")
    await pair.connected()
    await pair.cut()


@pytest.mark.hunt
async def test_two_circles_over_tls_with_a_volume_that_grows_at_either_site(
    tmp_path: Path,
) -> None:
    certificates = Certificates(tmp_path)
    tls = certificates.site("a"), certificates.site("b")
    size = 4 * MIB
    with ExchangingPair(tmp_path, [VolumeSpec("v", size)], link_tls=tls) as pair:
        await pair.start()
        for circle in range(2):
            await written(pair.primary, circle)
            await pair.cut()
            size += MIB + 512  # from here on tracks are cut at the end
            await grown(pair, pair.primary, size)
            await written(pair.primary, 10 + circle)
            await pair.cut()
            own = await written(pair.primary, 20 + circle)
            await lost_and_taken_over(pair)
            size += MIB
            await grown(pair, pair.remote, size)
            await pair.remote.stop()
            await pair.remote.start()
            now = await written(pair.remote, 40 + circle)
            assert await failed_back(pair, own) == now
            await switched_back(pair)
            assert bytes(await pair.primary.read_whole("g/v")) == now
            assert bytes(await pair.remote.read_whole("g/v")) == now


async def forgotten(daemon: Daemon) -> dict[str, Any]:
    words = ("forget", "g", "--config", str(daemon.config_path))
    asked = await asyncio.to_thread(run_cli, *words, input="n\n")
    assert "recovery point" in asked.stderr
    done = await asyncio.to_thread(run_cli, *words, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def linked(daemon: Daemon) -> None:
    await until(lambda: daemon.group()["link"]["state"] == "connected", "a link")


async def test_roles_exchanged_again_and_again_by_whoever_has_just_grown(
    tmp_path: Path,
) -> None:
    size = MIB
    with ExchangingPair(tmp_path, [VolumeSpec("v", size)]) as pair:
        await pair.start()
        sites = pair.primary, pair.remote
        for turn in range(4):
            sending, receiving = sites[turn % 2], sites[1 - turn % 2]
            if turn < 3:  # at last the group goes back untouched
                size += MIB + 512
                await grown(pair, sending, size)
                now = await written(sending, turn)
            await linked(sending)
            await pair.done(sending, "switchover", "g")
            await pair.reached(receiving, "it sends", role="sending")
            assert bytes(await receiving.read_whole("g/v")) == now
            assert bytes(await sending.read_whole("g/v")) == now
        for site in sites:
            await site.stop()
            await site.start()
            assert bytes(await site.read_whole("g/v")) == now

        # What is forgotten where a group was sent, received, and sent again.
        for site in sites:
            await site.stop()
            has_points = (await forgotten(site))["points"] != []
            assert has_points, "of before it sent again"
            assert list((site.state_directory / "groups").iterdir()) == []
            assert list((site.state_directory / "journal").iterdir()) == []


@pytest.mark.hunt
@pytest.mark.parametrize("is_grown_since", [False, True])
async def test_an_old_primary_put_back_from_a_backup_gets_all_that_differs(
    tmp_path: Path, *, is_grown_since: bool
) -> None:
    """Also what its volume has grown by since, and lacks in the backup."""
    size = 4 * MIB
    with ExchangingPair(tmp_path, [VolumeSpec("v", size)]) as pair:
        await pair.start()
        await written(pair.primary, 1)
        await pair.cut()
        await pair.primary.stop()
        state, device = pair.primary.state_directory, pair.device("v")
        backup = tmp_path / "backup"
        shutil.copytree(state, backup)
        shutil.copy(device, tmp_path / "v.backup")
        await pair.primary.start()
        await pair.connected()
        if is_grown_since:
            await grown(pair, pair.primary, size + MIB + 512)
        await written(pair.primary, 2)
        await pair.cut()
        await written(pair.primary, 3)
        await lost_and_taken_over(pair)
        now = await written(pair.remote, 4)

        await asyncio.to_thread(shutil.rmtree, state)
        shutil.copytree(backup, state)
        device.write_bytes((tmp_path / "v.backup").read_bytes())
        own = pair.content("v")
        assert await failed_back(pair, own) == now
        assert pair.primary.events("group_superseded")
        await until(lambda: pair.remote.group()["alarms"] == [], "all is well")
        await switched_back(pair)
        assert bytes(await pair.remote.read_whole("g/v")) == now


class SlowBackPair(ExchangingPair):
    """What the remote sends back takes a while."""

    def remote_toml(self) -> str:
        config = tomllib.loads(super().remote_toml())
        config["group"][0]["link"]["bandwidth"] = "128KiB/s"
        return toml(config)


class Copies:
    """Of the primary's machine, which is down."""

    def __init__(self, pair: ExchangingPair, directory: Path) -> None:
        self._state, self._device = pair.primary.state_directory, pair.device("v")
        self._directory = directory

    def take(self, name: str) -> None:
        shutil.copytree(self._state, self._directory / name)
        shutil.copy(self._device, self._directory / f"{name}.img")

    def put_back(self, name: str) -> None:
        shutil.rmtree(self._state)
        shutil.copytree(self._directory / name, self._state)
        self._device.write_bytes((self._directory / f"{name}.img").read_bytes())


@pytest.mark.hunt
async def test_a_cycle_begun_with_an_older_copy_of_who_gave_up_begins_anew(
    tmp_path: Path,
) -> None:
    """The newest copy had used its number for what it kept, and never takes it."""
    with SlowBackPair(tmp_path, [VolumeSpec("v", MIB)]) as pair:
        copies = Copies(pair, tmp_path)
        await pair.start()
        await written(pair.primary, 1)
        await pair.cut()
        await pair.primary.stop()
        copies.take("older")
        await pair.primary.start()
        await pair.connected()
        await written(pair.primary, 2)
        await pair.cut()
        await written(pair.primary, 3)
        await lost_and_taken_over(pair)
        host = await pair.remote.nbd("g/v")
        await host.write(0, random.Random(4).randbytes(MIB))
        await host.disconnect()
        now = bytes(await pair.remote.read_whole("g/v"))

        await pair.primary.start()
        await pair.reached(pair.primary, "it is told", state="superseded")
        pair.remote.kill()
        kept = await pair.done(pair.primary, "failback", "g")
        await pair.primary.stop()
        copies.take("newest")
        copies.put_back("older")
        await pair.remote.start()
        await pair.primary.start()
        await pair.reached(pair.primary, "it is told", state="superseded")
        await pair.done(pair.primary, "failback", "g")
        await until(lambda: bool(pair.remote.group()["progress"]), "a cycle is begun")
        pair.primary.kill()

        copies.put_back("newest")
        await pair.primary.start()
        await pair.received(pair.primary, kept["fork"])
        assert bytes(await pair.primary.read_whole("g/v")) == now


class ChangingPair(KeepingPair, ExchangingPair):
    """Volumes come, then roles change."""


async def test_a_volume_that_was_added_goes_along_as_roles_change(
    tmp_path: Path,
) -> None:
    """Neither daemon is started again in between: its config of then lacks it."""
    with ChangingPair(tmp_path, [VolumeSpec("v", MIB)]) as pair:
        await pair.start()
        await written(pair.primary, 1)
        await pair.cut()
        pair.add_to_configs(VolumeSpec("n", MIB))
        await asyncio.to_thread(pair.volume, "add", "n")
        await until(pair.is_connected, "the next session knows the volume")
        await fill(pair, "n", 2)
        await pair.cut()
        await until(lambda: not pair.joining(), "a point has it")
        now = bytes(await pair.primary.read_whole("g/n"))
        for sending, receiving in (
            (pair.primary, pair.remote),
            (pair.remote, pair.primary),
        ):
            await linked(sending)
            await pair.done(sending, "switchover", "g")
            await pair.reached(receiving, "it sends", role="sending")
            assert bytes(await receiving.read_whole("g/n")) == now
            assert bytes(await sending.read_whole("g/n")) == now
