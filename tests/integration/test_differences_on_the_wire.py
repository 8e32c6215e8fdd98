"""Differences between two real daemons: few bytes, and never a wrong one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.sites import Pair, VolumeSpec, until
from tests.support.small_disk import small_disk

TRACK = 4096
SIZE = 8 << 20
PAGES = SIZE // TRACK
CELL = b"a row that was updated in place!"


class Table:
    """A volume of pages that look like noise, of which rows change in place."""

    def __init__(self, client: Any) -> None:
        self.random = random.Random(11)
        self.content = bytearray(self.random.randbytes(SIZE))
        self._client = client

    async def load(self) -> None:
        for offset in range(0, SIZE, 1 << 20):
            await self._write(offset, bytes(self.content[offset : offset + (1 << 20)]))

    async def update(self, pages: int, *, of: int = PAGES) -> None:
        """Change a row of so many pages, and write these pages whole."""
        for page in self.random.sample(range(of), pages):
            start = page * TRACK
            cell = start + self.random.randrange(TRACK - len(CELL))
            row = bytes(self.random.choices(CELL, k=len(CELL)))
            self.content[cell : cell + len(CELL)] = row
            await self._write(start, bytes(self.content[start : start + TRACK]))

    async def rewrite(self, pages: int) -> None:
        """Write pages again as they are."""
        for page in range(pages):
            start = page * TRACK
            await self._write(start, bytes(self.content[start : start + TRACK]))

    async def put(self, offset: int, data: bytes) -> None:
        """Write what is in `content` there already."""
        await self._write(offset, data)

    async def flush(self) -> None:
        await self._client.flush()

    async def connect(self, pair: Pair) -> None:
        """Go on over a new connection: a kill may have ended the old one."""
        self._client.abort()
        self._client = await pair.primary.nbd("g/v")

    async def _write(self, offset: int, data: bytes) -> None:
        await self._client.write(offset, data)


def last_cycle(pair: Pair) -> dict[str, Any]:
    """Return what the primary's log says of the newest cycle."""
    return pair.primary.events("cycle_committed")[-1]


async def exact(pair: Pair, table: Table) -> dict[str, Any]:
    """Cut; the secondary has to be what the host wrote, byte for byte."""
    await pair.cut()
    assert pair.secondary("v").read_bytes() == table.content
    return last_cycle(pair)


async def loaded(pair: Pair) -> Table:
    await pair.start()
    table = Table(await pair.primary.nbd("g/v"))
    await table.load()
    first = await exact(pair, table)
    assert first["tracks_differenced"] == 0, "nothing is held yet"
    return table


async def test_rows_updated_in_place_cost_a_fraction_of_their_pages(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, [VolumeSpec("v", SIZE)]) as pair:
        table = await loaded(pair)
        for _ in range(3):
            await table.update(400)
            cycle = await exact(pair, table)
            assert cycle["tracks_differenced"] == 400
            assert cycle["tracks_refused"] == 0
            assert cycle["bytes_on_wire"] < 400 * TRACK // 10
        await table.rewrite(300)
        cycle = await exact(pair, table)
        assert cycle["tracks_differenced"] == 300
        assert cycle["bytes_on_wire"] < 300 * 100


async def test_without_delta_the_same_pages_travel_whole(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", SIZE)], link={"delta": False}) as pair:
        table = await loaded(pair)
        await table.update(400)
        cycle = await exact(pair, table)
        assert cycle["tracks_differenced"] == 0
        assert cycle["bytes_on_wire"] > 400 * TRACK


async def test_a_secondary_changed_behind_the_remotes_back_gets_whole_tracks(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, [VolumeSpec("v", SIZE)]) as pair:
        table = await loaded(pair)
        await table.update(PAGES // 2, of=PAGES // 2)
        with pair.secondary("v").open("r+b") as device:
            for page in range(0, 100, 2):
                device.seek(page * TRACK + 100)
                device.write(b"tampered")
        cycle = await exact(pair, table)
        assert cycle["tracks_refused"] >= 50
        await table.update(200)
        cycle = await exact(pair, table)
        assert (cycle["tracks_differenced"], cycle["tracks_refused"]) == (200, 0)


async def test_after_restarts_of_either_site_the_data_is_right(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", SIZE)]) as pair:
        table = await loaded(pair)
        for daemon in (pair.remote, pair.primary):
            await table.update(100)
            await table.flush()
            daemon.kill()
            await daemon.start()
            await pair.connected()
            await table.connect(pair)
            await table.update(100)
            await exact(pair, table)
            await table.update(100)
            cycle = await exact(pair, table)
            assert cycle["tracks_differenced"] == 100, "a base is there again"
            assert cycle["tracks_refused"] == 0


@pytest.mark.hunt
async def test_a_cycle_cut_short_over_and_over_ends_with_the_right_data(
    tmp_path: Path,
) -> None:
    """The remote meets results of its own, bases, and tracks half way between."""
    with Pair(tmp_path, [VolumeSpec("v", SIZE)], link={"compression": "off"}) as pair:
        table = await loaded(pair)
        for _ in range(3):
            await table.update(PAGES // 2)
            before = len(pair.remote.events("session_opened"))
            pair.remote.pause()
            cutting = asyncio.create_task(pair.cut())
            await until(
                lambda: pair.primary.group()["state"] == "draining", "a cut is taken"
            )
            pair.remote.resume()
            pair.remote.kill()
            await table.update(100)  # of the next cycle
            await pair.remote.start()
            await until(
                lambda known=before: len(pair.remote.events("session_opened")) > known,
                "the remote is found again",
            )
            await cutting
            await exact(pair, table)


@pytest.mark.hunt
async def test_an_abandoned_cycle_is_no_base_and_the_next_one_is(
    tmp_path: Path,
) -> None:
    group: dict[str, object] = {"manual": True, "resume_timeout": "300ms"}
    with Pair(tmp_path, [VolumeSpec("v", SIZE)], group=group) as pair:
        table = await loaded(pair)
        await table.update(200)
        pair.remote.pause()
        cutting = asyncio.create_task(pair.cut())
        await until(
            lambda: pair.primary.group()["state"] == "draining", "a cut is taken"
        )
        pair.remote.kill()
        await until(
            lambda: bool(pair.primary.events("cycle_abandoned")), "it is abandoned"
        )
        with contextlib.suppress(Exception):
            await cutting
        await table.update(200)
        await pair.remote.start()
        await pair.connected()
        cycle = await exact(pair, table)
        assert cycle["tracks_differenced"] == 0
        await table.update(200)
        cycle = await exact(pair, table)
        assert cycle["tracks_differenced"] == 200


@pytest.mark.needs_root
@pytest.mark.needs_package("mount")
async def test_a_target_without_room_costs_the_base_and_no_more(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 3 << 20) as disk:
        group: dict[str, object] = {
            "manual": True,
            "flashcopy": {"directory": str(disk.path)},
        }
        with Pair(tmp_path, [VolumeSpec("v", SIZE)], group=group) as pair:
            table = await loaded(pair)
            await table.update(200)
            cycle = await exact(pair, table)
            assert cycle["tracks_differenced"] == 200
            await table.update(PAGES)  # more than there is room for
            cycle = await exact(pair, table)
            assert cycle["tracks_differenced"] == 0
            for _ in range(3):  # what is full is emptied by the cuts that follow
                await table.update(100)
                cycle = await exact(pair, table)
            assert (cycle["tracks_differenced"], cycle["tracks_refused"]) == (100, 0)


async def test_pages_copied_into_a_log_cost_next_to_nothing(tmp_path: Path) -> None:
    """The log is new where it stands, but what it holds the remote has elsewhere."""
    copied = 200
    log_at = SIZE // 2

    async def cycle(pair: Pair, table: Table) -> dict[str, Any]:
        pages = range(table.random.randrange(100), PAGES // 2, 4)
        rows = [bytes(table.content[page * TRACK :][: TRACK // 2]) for page in pages]
        log = b"head" + b"".join(row + b" " * len(row) for row in rows[:copied])
        log = log[: copied * TRACK]
        table.content[log_at : log_at + len(log)] = log
        await table.update(PAGES // 2, of=PAGES // 2)
        await table.put(log_at, log)
        return await exact(pair, table)

    with Pair(tmp_path, [VolumeSpec("v", SIZE)], link={"compression": 3}) as pair:
        table = await loaded(pair)
        for _ in range(2):
            found = await cycle(pair, table)
            assert found["bytes_on_wire"] < copied * TRACK // 4
            assert found["tracks_refused"] == 0
        with pair.secondary("v").open("r+b") as device:
            for page in range(PAGES // 2):  # each of them
                device.seek(page * TRACK + 100)
                device.write(b"tampered")
        await table.rewrite(PAGES // 2)
        assert (await cycle(pair, table))["tracks_refused"] > copied
        assert (await cycle(pair, table))["tracks_refused"] == 0
