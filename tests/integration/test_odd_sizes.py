"""Any multiple of 512 bytes is a size, of a file and of a block device, grown or not.

Volumes of one group with sizes that divide by no track, page or region. Their first
and last sectors and what is in between are written, cut, read at the remote, kept over
a restart; then all grow, by something odd.
"""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pytest

from demo.attached import loop_device
from tests.support.client_commands import run
from tests.support.sites import Pair, VolumeSpec, until

SEED = int(os.environ.get("FARSHORE_SEED", "7"))
SECTOR = 512
MIB = 1 << 20

SIZES = {
    # Sectors, and the size of a track.
    "one": (1, "4KiB"),
    "seven": (7, "4KiB"),
    "nine": (9, "64KiB"),
    "short": (2047, "1MiB"),
    "long": (4 * 2048 + 1, "1MiB"),
    "prime": (7919, "4KiB"),
}
MORE = {"one": 1, "seven": 2, "nine": 8192, "short": 1, "long": 4093, "prime": 10007}
"""Sectors that they grow by."""


class OddVolumes:
    """The volumes of a pair, and what each has to hold."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.chance = random.Random(SEED)
        self.held = {v.name: bytearray(v.size_bytes) for v in pair.volumes}

    async def write(self) -> None:
        """Write the ends and a few places of each volume, of any sectors."""
        for name, held in self.held.items():
            host = await self.pair.primary.nbd(f"g/{name}")
            assert host.info.size_bytes == len(held)
            sectors = len(held) // SECTOR
            places = [(0, 1), (sectors - 1, 1)]
            for _ in range(4):
                first = self.chance.randrange(sectors)
                places.append((first, self.chance.randint(1, min(sectors - first, 40))))
            for first, count in places:
                data = self.chance.randbytes(count * SECTOR)
                at = first * SECTOR
                await host.write(at, data)
                held[at : at + len(data)] = data
            await host.disconnect()

    async def check(self) -> None:
        """Cut, and compare both sites with what was written."""
        await self.pair.cut()
        for name, held in self.held.items():
            assert await self.pair.remote.read_whole(f"g/{name}") == held, name
            assert await self.pair.primary.read_whole(f"g/{name}") == held, name

    async def restart(self) -> None:
        for daemon in self.pair.daemons:
            await daemon.stop()
        await self.pair.start()

    def grow(self) -> None:
        for name, held in self.held.items():
            size = len(held) + MORE[name] * SECTOR
            call = self.pair.primary.call
            grown = call("grow", group="g", volume=name, size_bytes=size)
            assert grown["size_bytes"] == size
            held.extend(bytes(size - len(held)))


def volumes() -> list[VolumeSpec]:
    return [
        VolumeSpec(name, sectors * SECTOR, {"track_size": track})
        for name, (sectors, track) in SIZES.items()
    ]


async def through_it_all(odd: OddVolumes) -> None:
    await odd.pair.start()
    await odd.write()
    await odd.check()
    await odd.restart()
    odd.grow()
    await odd.write()
    await odd.check()
    await odd.restart()
    await odd.check()
    call = odd.pair.primary.call
    call("verify", group="g", action="start", rate="1GiB/s")

    def result() -> str | None:
        found: str | None = call("verify", group="g", action="report")["result"]
        return found

    await until(lambda: result() is not None, "the verify ends")
    assert result() == "clean"


async def test_files_of_odd_sizes(tmp_path: Path) -> None:
    with Pair(tmp_path, volumes()) as pair:
        await through_it_all(OddVolumes(pair))


@pytest.mark.needs_root
@pytest.mark.needs_package("losetup")
@pytest.mark.hunt
async def test_block_devices_of_odd_sizes(tmp_path: Path) -> None:
    with contextlib.ExitStack() as undo:
        pair = Pair(tmp_path, volumes())
        enlarged: list[tuple[Path, Path, int]] = []
        for spec in pair.volumes:
            for path in (pair.device(spec.name), pair.secondary(spec.name)):
                backing = path.with_suffix(".backing")
                backing.write_bytes(bytes(spec.size_bytes))
                path.symlink_to(undo.enter_context(loop_device(backing)))
                enlarged.append((path, backing, MORE[spec.name] * SECTOR))
        undo.enter_context(pair)
        odd = OddVolumes(pair)
        grow = odd.grow

        def enlarge_and_grow() -> None:
            for device, backing, more in enlarged:
                with backing.open("ab") as file:
                    file.write(bytes(more))
                run("losetup", "--set-capacity", device)
            grow()

        odd.grow = enlarge_and_grow  # type: ignore[method-assign]
        await through_it_all(odd)
