"""`GROUP/VOLUME@cut`: the image at the cut, under writes, until the next cut."""

from __future__ import annotations

import asyncio
import errno
import random
from typing import Any

from common.ports import HostCommand, HostRequest, HostVolume
from primary_site.exports import PrimaryExports
from tests.support.primary_host_site import SIZE, TRACK, Site


def exports_of(site: Site) -> PrimaryExports:
    return PrimaryExports({"orders": site.group.volumes})


async def ask(volume: HostVolume, command: int, offset: int, length: int) -> Any:
    ended = asyncio.get_running_loop().create_future()
    request = HostRequest(command, offset, length)
    volume.submit([request], lambda done: ended.set_result(done[0]))
    return await ended


async def test_the_image_at_the_cut_stays_under_writes_and_ends_with_the_next_cut(
    site: Site,
) -> None:
    rng = random.Random(5)
    await site.write(0, rng.randbytes(SIZE // 2))
    exports = exports_of(site)
    assert exports.open("orders/data@cut") is None
    await site.commit_cut()
    image = await site.read(0, SIZE)
    volume = exports.open("orders/data@cut")
    assert volume is not None
    assert volume.read_only
    assert "orders/data@cut" in [name for name, _ in exports.names()]
    for _ in range(60):
        offset = rng.randrange(SIZE - 50_000)
        data = rng.randbytes(rng.randrange(1, 50_000))
        write = site.start(HostCommand.WRITE, offset, len(data), data=data)
        at = rng.randrange(SIZE - 70_000)
        length = rng.randrange(1, 70_000)
        found = await ask(volume, HostCommand.READ, at, length)
        assert found.error == 0
        assert found.data == image[at : at + length]
        assert (await write).error == 0
    whole = await ask(volume, HostCommand.READ, 0, SIZE)
    assert whole.data == image

    await site.commit_cut()
    assert (await ask(volume, HostCommand.READ, 0, TRACK)).error == errno.EIO
    again = exports.open("orders/data@cut")
    assert again is not None
    now = await ask(again, HostCommand.READ, 0, SIZE)
    assert now.data == await site.read(0, SIZE)
    site.group.withdraw()
    assert (await ask(again, HostCommand.READ, 0, TRACK)).error == errno.EIO


async def test_the_image_at_the_cut_can_not_be_written(site: Site) -> None:
    await site.commit_cut()
    volume = exports_of(site).open("orders/data@cut")
    assert volume is not None
    for command in (HostCommand.WRITE, HostCommand.TRIM, HostCommand.WRITE_ZEROES):
        assert (await ask(volume, command, 0, 512)).error == errno.EPERM
    assert (await ask(volume, HostCommand.READ, 0, 0)).error == 0


async def test_only_known_names_open(site: Site) -> None:
    exports = exports_of(site)
    assert exports.open("orders/data") is site.volume
    assert exports.open("orders/other") is None
    assert exports.open("data") is None
    assert [name for name, _ in exports.names()] == ["orders/data"]
