"""Volumes that are added to a group and removed from it, while hosts write."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from common.errors import FarshoreError
from common.service.control_client import CommandFailedError
from tests.support.changing_group import KeepingPair, fill
from tests.support.nbd_client import NbdReplyError
from tests.support.sites import VolumeSpec, until

MIB = 1 << 20
OLD = [VolumeSpec("v", 2 * MIB + 1536), VolumeSpec("w", MIB)]
NEW = VolumeSpec("n", 3 * MIB + 512)


async def test_points_have_the_volumes_that_the_group_had(tmp_path: Path) -> None:
    with KeepingPair(tmp_path, list(OLD)) as pair:
        await pair.start()
        wanted: dict[int, dict[str, bytes]] = {}
        for seed in range(2):
            await fill(pair, "v", seed)
            await fill(pair, "w", seed)
            number, wanted_now = await pair.point()
            wanted[number] = wanted_now
        hosts = await pair.primary.nbd("g/v")
        pair.add_to_configs(NEW)
        added = await asyncio.to_thread(pair.volume, "add", "n")
        assert added["size_bytes"] == NEW.size_bytes
        await fill(pair, "n", 3)
        await hosts.write(0, b"h" * 4096)  # nobody was cut off
        await until(pair.is_connected, "the next session knows the volume")
        for seed in range(2):
            await fill(pair, "n", seed + 4)
            await fill(pair, "v", seed + 4)
            number, wanted[number] = await pair.point()
        # The first of them was manual, and so had all of the copy.
        assert set(wanted[number]) == {"v", "w", "n"}
        status = pair.group("g")
        assert [v["name"] for v in status["volumes"]] == ["v", "w", "n"]
        client = await pair.primary.nbd("g/w")
        with pytest.raises(CommandFailedError, match="connections of hosts use g/w"):
            await asyncio.to_thread(pair.volume, "remove", "w")
        await client.write(0, b"l" * 512)
        await asyncio.to_thread(pair.volume, "remove", "w", cut_off=True)
        with pytest.raises((ConnectionError, NbdReplyError)):
            await client.read(0, 512)
        await until(pair.is_connected, "the next session knows that it is gone")
        left = pair.content("w")
        assert left[:512] == b"l" * 512
        for seed in range(2):
            await fill(pair, "n", seed + 6)
            number, wanted[number] = await pair.point()
        assert set(wanted[number]) == {"v", "n"}
        for number, images in wanted.items():
            assert await pair.served(number) == images, number
        # Both start again, with an entry more and with one less in the config.
        pair.volumes = [v for v in pair.volumes if v.name != "w"]
        for daemon in pair.daemons:
            await daemon.stop()
        pair.write_configs()
        await pair.start()
        await fill(pair, "v", 9)
        number, wanted[number] = await pair.point()
        pair.volumes.append(OLD[1])
        for number, images in wanted.items():
            assert await pair.served(number) == images, number
        assert pair.content("w") == left
        assert pair.group("g")["alarms"] == []


async def test_cycles_go_on_beside_the_first_copy(tmp_path: Path) -> None:
    """Of a volume of many parts: points are cut meanwhile, each whole."""
    large = VolumeSpec("n", 48 * MIB)
    options: dict[str, object] = {"interval": "1s"}
    with KeepingPair(tmp_path, list(OLD), group=options) as pair:
        await pair.start()
        await until(lambda: pair.committed("g") > 0, "a first point")
        before = pair.committed("g")
        device = tmp_path / "n.img"
        chance = random.Random(5)
        with device.open("wb") as file:
            for _ in range(20):
                file.write(chance.randbytes(MIB))
            file.truncate(large.size_bytes)
        pair.add_to_configs(large)
        await asyncio.to_thread(pair.volume, "add", "n")
        await fill(pair, "n", 1)
        await until(lambda: not pair.joining(), "a point has the volume")
        shapes = {number: set(await pair.served(number)) for number in pair.numbers()}
        joined = min(number for number, names in shapes.items() if "n" in names)
        for number, names in shapes.items():
            assert names == ({"v", "w", "n"} if number >= joined else {"v", "w"})
        parts = [number for number in shapes if before < number < joined]
        assert parts, "cycles were committed before the copy was complete"
        await asyncio.to_thread(pair.primary.call, "suspend", group="g")
        await asyncio.to_thread(pair.primary.call, "resume", group="g")
        number, images = await pair.point()
        assert await pair.served(number) == images


async def test_what_cannot_be_added_is_told_with_file_and_key(tmp_path: Path) -> None:
    with KeepingPair(tmp_path, list(OLD)) as pair:
        await pair.start()

        async def refused(text: str, action: str = "add", name: str = "n") -> None:
            with pytest.raises(FarshoreError, match=text):
                await asyncio.to_thread(pair.volume, action, name)

        await refused('primary.toml has no .*name = "n" in group "g"')
        await refused("has volume v already", name="v")
        remote = pair.remote.config_path.read_text()
        pair.add_to_configs(NEW)
        await refused("no recovery point yet")
        number, images = await pair.point()
        pair.remote.config_path.write_text(remote)
        await refused('remote.toml at the remote has no .*name = "n" in group "g"')
        pair.write_configs()
        pair.secondary("n").write_bytes(b"precious" * 4096)
        await refused("n.remote.img has 32768 bytes")
        pair.secondary("n").write_bytes(b"precious".ljust(NEW.size_bytes, b"x"))
        await refused("holds data")
        pair.secondary("n").unlink()
        pair.device("n").write_bytes(b"")
        await refused("no volume 'x'", "remove", "x")
        await asyncio.to_thread(pair.volume, "add", "n")
        await until(pair.is_connected, "the next session knows the volume")
        await asyncio.to_thread(pair.volume, "remove", "w")
        await until(pair.is_connected, "the next session knows that it is gone")
        await asyncio.to_thread(pair.volume, "remove", "n")
        await until(pair.is_connected, "the next session knows that it is gone")
        await refused("is the only volume of group g", "remove", "v")
        await until(pair.is_connected, "the next session knows that it is gone")
        await refused("w is the name of a volume that was removed", name="w")
        assert await pair.served(number) == images
        await fill(pair, "v", 1)
        number, images = await pair.point()
        assert set(images) == {"v"}
        assert await pair.served(number) == images
