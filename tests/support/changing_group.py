"""A pair of sites whose group's volumes come and go, and what its points hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.exchanging_pair import ExchangingPair
from tests.support.nbd_client import OptionRefusedError
from tests.support.sites import Daemon, Pair, VolumeSpec, read_all, until


class KeepingPair(Pair):
    """Its remote keeps all points for an hour."""

    gone: tuple[VolumeSpec, ...] = ()
    """Removed, and in no config any more."""

    def _received(self, name: str, volumes: Any) -> dict[str, Any]:
        return {**super()._received(name, volumes), "retain": ["all for 1h"]}

    def add_to_configs(self, *volumes: VolumeSpec) -> None:
        self.volumes = [*self.volumes, *volumes]
        self.write_configs()

    def drop_from_configs(self, name: str) -> None:
        self.gone += tuple(each for each in self.volumes if each.name == name)
        self.volumes = [each for each in self.volumes if each.name != name]
        self.write_configs()

    def volume(self, action: str, name: str, **arguments: Any) -> Any:
        """`farshore volume`."""
        return self.primary.call(
            "volume", group="g", action=action, volume=name, **arguments
        )

    async def point(self) -> tuple[int, dict[str, bytes]]:
        """Cut; return the point's number and what all volumes hold."""
        cut = await self.cut()
        return cut["number"], {
            name: self.content(name)
            for name in (v["name"] for v in self.group("g")["volumes"])
        }

    async def served(self, number: int, at: Daemon | None = None) -> dict[str, bytes]:
        """Return what a site, the remote unless told, serves of a point, by volume."""
        found = {}
        for volume in (*self.volumes, *self.gone):
            try:
                client = await (at or self.remote).nbd(f"g/{volume.name}@{number}")
            except OptionRefusedError:
                continue
            found[volume.name] = bytes(await read_all(client))
        return found

    def joining(self) -> list[str]:
        """Return the volumes that no point has yet, by the primary."""
        volumes = self.group("g")["volumes"]
        return [volume["name"] for volume in volumes if volume["joining"]]

    def numbers(self) -> list[int]:
        """Return the remote's points, oldest first."""
        points = self.remote.call("points", group="g")
        return sorted(point["number"] for point in points)


async def fill(
    pair: Pair, volume: str, seed: int, pieces: int = 6, at: Daemon | None = None
) -> None:
    """Write some tracks of a volume, as a host of a site, the primary unless told."""
    client = await (at or pair.primary).nbd(f"g/{volume}")
    chance = random.Random(seed)
    for _ in range(pieces):
        at = chance.randrange(client.info.size_bytes // 4096) * 4096
        size = min(4096, client.info.size_bytes - at)
        await client.write(at, chance.randbytes(size))
    await client.flush()
    await client.disconnect()


class CirclingPair(KeepingPair, ExchangingPair):
    """Volumes come and go at whichever site sends, as roles go round."""

    def image(self, at: Daemon, volume: str) -> bytes:
        """Return what a site's device holds."""
        path = self.device if at is self.primary else self.secondary
        return path(volume).read_bytes()

    async def change(self, at: Daemon, action: str, name: str) -> None:
        """Add a volume at the site that sends, or remove it; wait for a session."""
        arguments = {"group": "g", "action": action, "volume": name}
        await asyncio.to_thread(at.call, "volume", **arguments)
        await self.linked(at)

    async def linked(self, at: Daemon) -> None:
        await until(lambda: at.group()["link"]["state"] == "connected", "a link")

    async def joined(self, at: Daemon) -> None:
        """Cut until every volume is in a point."""

        def is_joining() -> bool:
            return any(volume["joining"] for volume in at.group()["volumes"])

        while is_joining():
            await self.cut_at(at)

    async def cut_at(self, at: Daemon) -> int:
        """Cut at the site that sends; return the number of the point."""
        cut = await asyncio.to_thread(at.call, "cut", group="g", wait=True)
        assert cut["committed"], cut
        return int(cut["number"])

    async def point_at(self, at: Daemon) -> tuple[int, dict[str, bytes]]:
        """Cut while nobody writes; return the number, and what all volumes hold."""
        number = await self.cut_at(at)
        return number, {name: self.image(at, name) for name in self.names(at)}

    def names(self, at: Daemon) -> list[str]:
        """Return the volumes that a site says the group has."""
        return [volume["name"] for volume in at.group()["volumes"]]

    def points_at(self, at: Daemon) -> list[int]:
        """Return the points that a site has itself, oldest first."""
        listed = at.call("points", group="g")
        return sorted(point["number"] for point in listed if point["here"])

    @asynccontextmanager
    async def written(self, at: Daemon, volume: str) -> AsyncIterator[None]:
        """Have a host write to a volume, on and on, until the block ends."""
        host = await at.nbd(f"g/{volume}")
        stop = asyncio.Event()
        chance = random.Random(volume)
        blocks = host.info.size_bytes // 512

        async def write() -> None:
            while not stop.is_set():
                await host.write(chance.randrange(blocks) * 512, chance.randbytes(512))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            try:
                yield
            finally:
                stop.set()
        await host.flush()
        await host.disconnect()
