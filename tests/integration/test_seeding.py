"""A secondary filled by other means: only what differs travels, and only if meant."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.sites import Pair, VolumeSpec, toml, until

MIB = 1 << 20
SIZE_BYTES = 24 * MIB + 512
TRACK_BYTES = 4096
VOLUMES = [VolumeSpec("v", SIZE_BYTES, {"track_size": "4KiB"})]


class SeededPair(Pair):
    """`accepting`: the remote's config says that its device may hold data."""

    accepting = False

    def remote_toml(self) -> str:
        text = super().remote_toml()
        if not self.accepting:
            return text
        device = toml({"device": str(self.secondary("v"))})
        assert device in text
        return text.replace(device, device + "accept_existing = true\n")


def copied(pair: Pair) -> None:
    """Fill the primary's device, and carry a copy to the remote on foot."""
    pair.device("v").write_bytes(os.urandom(SIZE_BYTES))
    shutil.copyfile(pair.device("v"), pair.secondary("v"))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 1]))


async def test_a_device_with_data_is_refused_until_the_operator_accepts_it(
    tmp_path: Path,
) -> None:
    with SeededPair(tmp_path, VOLUMES, link={"seed": "checksum"}) as pair:
        copied(pair)
        flip(pair.secondary("v"), 0)
        before = pair.secondary("v").read_bytes()
        await pair.remote.start()
        await pair.primary.start()
        await until(
            lambda: pair.group("g")["link"]["state"] == "refused", "it is refused"
        )
        (alarm,) = pair.group("g")["alarms"]
        assert alarm["name"] == "refused"
        assert str(pair.secondary("v")) in alarm["message"]
        assert "accept_existing = true" in alarm["message"]
        assert pair.secondary("v").read_bytes() == before

        pair.accepting = True
        pair.write_configs()
        await pair.remote.stop()
        await pair.remote.start()
        await pair.connected()
        await pair.cut()
        assert pair.secondary("v").read_bytes() == pair.content("v")


async def test_only_tracks_that_differ_from_the_seed_are_sent(tmp_path: Path) -> None:
    with SeededPair(tmp_path, VOLUMES, link={"seed": "checksum"}) as pair:
        pair.accepting = True
        pair.write_configs()
        copied(pair)
        different = (0, 7 * MIB + 3 * TRACK_BYTES, SIZE_BYTES - 1)
        for offset in different:
            flip(pair.secondary("v"), offset)
        await pair.start()
        host = await pair.primary.nbd("g/v")
        await host.write(3 * MIB, b"new" * 1000, fua=True)
        await host.disconnect()
        await pair.cut()
        last = pair.group("g")["last_cycle"]
        # Written, and different: one track each; what was written takes one more.
        assert last["tracks"] <= len(different) + 2, last
        assert last["bytes_on_wire"] < SIZE_BYTES // 100, last
        assert pair.secondary("v").read_bytes() == pair.content("v")


async def test_a_restart_in_between_compares_on(tmp_path: Path) -> None:
    """Neither side's kill turns the comparison into a copy."""
    with SeededPair(tmp_path, VOLUMES, link={"seed": "checksum"}) as pair:
        pair.accepting = True
        pair.write_configs()
        copied(pair)
        await pair.start()
        pair.primary.kill()
        await pair.primary.start()
        await pair.connected()
        pair.remote.kill()
        await pair.remote.start()
        await pair.connected()
        await pair.cut()
        last = pair.group("g")["last_cycle"]
        assert last["bytes_on_wire"] < SIZE_BYTES // 50, last
        assert pair.secondary("v").read_bytes() == pair.content("v")


async def test_an_accepted_device_without_a_seed_is_replaced_whole(
    tmp_path: Path,
) -> None:
    with SeededPair(tmp_path, VOLUMES) as pair:
        pair.accepting = True
        pair.write_configs()
        pair.secondary("v").write_bytes((b"old!" * SIZE_BYTES)[:SIZE_BYTES])
        await pair.start()
        host = await pair.primary.nbd("g/v")
        await host.write(MIB, b"x" * MIB, fua=True)
        await host.disconnect()
        await pair.cut()
        assert pair.secondary("v").read_bytes() == pair.content("v")


async def test_a_device_of_zeroes_needs_no_leave(tmp_path: Path) -> None:
    with SeededPair(tmp_path, VOLUMES) as pair:
        pair.secondary("v").write_bytes(bytes(SIZE_BYTES))
        await pair.start()
        await pair.cut()
