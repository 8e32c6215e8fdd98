"""A history of recovery points: real daemons, real clients, points read as @N."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from pathlib import Path
from typing import Any

from tests.support.sites import Pair, VolumeSpec, run_cli, until

SIZE_BYTES = 2 << 20
NOISE_BYTES = 300 << 10
TRACK_BYTES = 4096


class HistoricalPair(Pair):
    """Its remote keeps what `retain` says."""

    retain: tuple[str, ...] = ("all for 1h",)
    limit: str | None = None

    def journals(self) -> set[str]:
        directory = self.remote.state_directory / "journal" / "g"
        return {path.name for path in directory.iterdir()}

    def _received(self, name: str, volumes: Any) -> dict[str, Any]:
        found = super()._received(name, volumes)
        found["retain"] = list(self.retain)
        if self.limit is not None:
            found["journal"] = {"limit": self.limit}
        return found


async def points(pair: Pair, *options: str) -> list[dict[str, Any]]:
    done = await asyncio.to_thread(
        run_cli,
        *("points", "g", *options, "--json", "--socket", pair.remote.control_socket),
    )
    assert done.returncode == 0, done.stderr
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    return listed


async def numbers(pair: Pair) -> list[int]:
    return [point["number"] for point in await points(pair)]


async def write_and_cut(pair: Pair, number: int) -> list[bytearray]:
    """Overwrite tracks of both volumes; return what they hold at the cut."""
    for volume in pair.exports:
        client = await pair.primary.nbd(volume)
        for track in (0, number, 3 * number):
            await client.write(track * TRACK_BYTES, bytes([number]) * TRACK_BYTES)
        await client.disconnect()
    await pair.cut(label=f"number {number}")
    return await pair.images(pair.primary)


async def test_each_point_of_a_history_is_served_as_it_was(tmp_path: Path) -> None:
    volumes = [VolumeSpec("v", SIZE_BYTES), VolumeSpec("w", SIZE_BYTES // 2 + 512)]
    with HistoricalPair(tmp_path, volumes) as pair:
        await pair.start()
        wanted = {n: await write_and_cut(pair, n) for n in range(1, 7)}
        listed = await points(pair)
        assert [point["number"] for point in listed] == list(range(6, 0, -1))
        assert [point["label"] for point in listed][-1] == "number 1"
        assert all(point["bytes"] > 0 for point in listed)
        for number, images in wanted.items():
            assert await pair.images(pair.remote, f"@{number}") == images
        # Kept by its number, thinned by a rule that keeps nothing else.
        kept = await points(pair, "--keep", "3")
        assert [p["number"] for p in kept if p["pinned"]] == [3]
        pair.retain = ()
        await pair.remote.stop()
        pair.write_configs()
        await pair.remote.start()
        await pair.connected()
        for number in range(7, 9):
            wanted[number] = await write_and_cut(pair, number)
        left = await numbers(pair)
        assert left[-1] == 3
        assert left[0] == 8
        for number in left:
            assert await pair.images(pair.remote, f"@{number}") == wanted[number]
        await points(pair, "--release", "3")
        await are_left(pair, [8])
        assert await pair.images(pair.remote) == wanted[8]
        # Other rules, without a restart.
        pair.retain = ("all for 1h",)
        await reloaded(pair, 1)
        assert pair.remote.group()["history"]["retain"] == ["all for 1h"]
        await write_and_cut(pair, 9)
        assert await numbers(pair) == [9, 8]
        pair.retain = ()
        await reloaded(pair, 2)
        await are_left(pair, [9])


async def reloaded(pair: Pair, times: int) -> None:
    """Have the remote read its config; return once it has, so often in all."""
    pair.write_configs()
    assert pair.remote.process is not None
    pair.remote.process.send_signal(signal.SIGHUP)
    told = "config_reloaded"
    await until(lambda: len(pair.remote.events(told)) >= times, told)


async def are_left(pair: Pair, expected: list[int]) -> None:
    def are_there() -> bool:
        listed = pair.remote.call("points", group="g")
        return [point["number"] for point in listed] == expected

    await until(are_there, f"points {expected} are left")


async def test_readers_go_on_while_points_between_are_merged_away(
    tmp_path: Path,
) -> None:
    """A rule keeps the first of each period only: with all cuts within one, the
    first and the newest stay, and what lies between goes while the first is read."""
    with HistoricalPair(tmp_path, [VolumeSpec("v", SIZE_BYTES)]) as pair:
        pair.retain = ("1 per 36500d for 36500d",)
        pair.write_configs()
        await pair.start()
        first = await write_and_cut(pair, 1)
        reader = await pair.remote.nbd("g/v@1")
        for number in range(2, 9):
            newest = await write_and_cut(pair, number)
            assert await reader.read(0, 16 * TRACK_BYTES) == bytes(
                first[0][: 16 * TRACK_BYTES]
            )

        def is_merged() -> bool:
            return any(
                name.startswith("v@1.") and not name.startswith("v@1.journal")
                for name in pair.journals()
            )

        await until(is_merged, "journals were merged into that of point 1")
        assert await numbers(pair) != list(range(8, 0, -1))
        assert await reader.read(0, SIZE_BYTES // 2) == first[0][: SIZE_BYTES // 2]
        await reader.disconnect()
        assert await pair.images(pair.remote, "@1") == first
        pair.remote.kill()
        await pair.remote.start()
        assert await pair.images(pair.remote, "@1") == first
        assert await pair.images(pair.remote) == newest


async def test_a_limit_makes_room_and_the_newest_point_stays(tmp_path: Path) -> None:
    with HistoricalPair(tmp_path, [VolumeSpec("v", SIZE_BYTES)]) as pair:
        pair.limit = "1MiB"
        pair.write_configs()
        await pair.start()
        for number in range(1, 7):
            client = await pair.primary.nbd("g/v")
            await client.write(0, noise(number))
            await client.disconnect()
            await pair.cut()

        def has_room() -> bool:
            listed = pair.remote.call("points", group="g")
            return sum(point["bytes"] for point in listed) < 0.9 * (1 << 20)

        await until(has_room, "the oldest points have gone")
        left = await numbers(pair)
        assert left[0] == 6
        assert 1 not in left
        image = (await pair.images(pair.remote))[0]
        assert image[:NOISE_BYTES] == noise(6)


def noise(seed: int) -> bytes:
    """Return what no journal can pack."""
    return random.Random(seed).randbytes(NOISE_BYTES)
