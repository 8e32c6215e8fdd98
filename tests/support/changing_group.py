"""A pair of sites whose group's volumes come and go, and what its points hold."""

from __future__ import annotations

import random
from typing import Any

from tests.support.nbd_client import OptionRefusedError
from tests.support.sites import Pair, VolumeSpec, read_all


class KeepingPair(Pair):
    """Its remote keeps all points for an hour."""

    def _received(self, name: str, volumes: Any) -> dict[str, Any]:
        return {**super()._received(name, volumes), "retain": ["all for 1h"]}

    def add_to_configs(self, *volumes: VolumeSpec) -> None:
        self.volumes = [*self.volumes, *volumes]
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

    async def served(self, number: int) -> dict[str, bytes]:
        """Return what the remote serves of a point, by volume."""
        found = {}
        for volume in self.volumes:
            try:
                client = await self.remote.nbd(f"g/{volume.name}@{number}")
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


async def fill(pair: Pair, volume: str, seed: int, pieces: int = 6) -> None:
    """Write some tracks of a volume, as a host."""
    client = await pair.primary.nbd(f"g/{volume}")
    chance = random.Random(seed)
    for _ in range(pieces):
        at = chance.randrange(client.info.size_bytes // 4096) * 4096
        size = min(4096, client.info.size_bytes - at)
        await client.write(at, chance.randbytes(size))
    await client.flush()
    await client.disconnect()
