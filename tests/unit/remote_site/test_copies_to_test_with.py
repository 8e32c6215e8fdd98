"""Test copies: what is written to them, and that nobody else notices."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import RefusedError, StorageError
from common.ports import BASE_ALLOCATION, HostCommand, HostRequest
from common.service.clock import SystemClock
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from remote_site.store import GroupStore, StoreSettings
from remote_site.test_copies import COPIES_MAX, GroupTestCopies
from remote_site.test_copy_volume import OverlayVolume
from tests.support.remote_store_group import (
    BINDING,
    DATA,
    LOG,
    ask,
    read,
    tracks_of,
    zero_tracks,
)

TRACK = DATA.track_bytes


class ScantFiles(SystemFiles):
    """A file system of which this much is said to be free."""

    room: int | None = None

    def free_bytes(self, path: str) -> int:
        return super().free_bytes(path) if self.room is None else self.room


class Site:
    """A group's store on real files, with a point, and its test copies."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = ScantFiles()
        self.threads = WorkerThreads("test", 2)
        self.chance = random.Random(7)
        self.commits = 0
        self.gone: list[str] = []

    async def open(self) -> None:
        self.store = await GroupStore.open(
            self.files,
            self.threads,
            StoreSettings(
                group="orders",
                state_directory=f"{self.directory}/state",
                journal_directory=f"{self.directory}/journal",
                devices={
                    offer.name: f"{self.directory}/{offer.name}"
                    for offer in (DATA, LOG)
                },
            ),
        )
        await self.store.bind(**BINDING)
        self.copies = GroupTestCopies(
            "orders",
            self.store,
            self.files,
            str(self.directory / "copies"),
            0,
            SystemClock(),
        )
        self.copies.remove_leftovers()

    async def commit(self) -> bytes:
        """Overwrite some of volume `data`, commit; return what it holds now."""
        self.commits += 1
        count = 20
        first = self.chance.randrange(0, 40)
        content = self.chance.randbytes(count * TRACK)
        await self.store.apply(0, [tracks_of(DATA, first, content)])
        await self.store.apply(0, [zero_tracks(first + 3, 2)])
        await self.store.flush()
        await self.store.commit(
            number=self.commits,
            cycle_id=bytes([self.commits]) * 16,
            cut_ns=self.commits,
            label=None,
        )
        return (self.directory / "data").read_bytes()

    async def disconnect(self, export: str) -> None:
        self.gone.append(export)

    def volume(self, name: str) -> OverlayVolume:
        found = self.copies.open("data", name)
        assert isinstance(found, OverlayVolume)
        return found

    async def close(self) -> None:
        await self.copies.close()
        await self.store.close()
        self.threads.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await made.open()
    yield made
    await made.close()


def random_change(chance: random.Random, model: bytearray) -> HostRequest:
    """Return a change, made in the model already; a TRIM of whole tracks only."""
    offset = chance.randrange(DATA.size_bytes)
    longest = chance.choice([600, 2 * TRACK, 12 * TRACK])
    length = chance.randrange(1, min(longest, DATA.size_bytes - offset) + 1)
    kind = chance.choice(
        [HostCommand.WRITE, HostCommand.WRITE_ZEROES, HostCommand.TRIM]
    )
    if kind == HostCommand.TRIM:
        offset -= offset % TRACK
        length = min(-(-length // TRACK) * TRACK, DATA.size_bytes - offset)
    data = chance.randbytes(length) if kind == HostCommand.WRITE else None
    model[offset : offset + length] = data or bytes(length)
    return HostRequest(
        kind,
        offset,
        length,
        data,
        fua=chance.random() < 0.1,
        no_hole=chance.random() < 0.5,
    )


async def check(volume: OverlayVolume, model: bytes) -> None:
    """Compare all of it, and what is said of holes."""
    assert await read(volume, 0, DATA.size_bytes) == model
    offset = 0
    while offset < DATA.size_bytes:
        status = HostRequest(
            HostCommand.BLOCK_STATUS,
            offset,
            DATA.size_bytes - offset,
            contexts=(BASE_ALLOCATION,),
        )
        await ask(volume, status)
        assert status.error == 0
        for length, flags in status.data[0]:
            if flags:
                assert not any(model[offset : offset + length])
            offset += length
    sparse = HostRequest(HostCommand.READ, 0, DATA.size_bytes, sparse_ok=True)
    await ask(volume, sparse)
    parts = sparse.data if isinstance(sparse.data, list) else [(0, sparse.data)]
    assert b"".join(bytes(n) if d is None else bytes(d) for n, d in parts) == model


@pytest.mark.parametrize("seed", range(4))
async def test_any_changes_are_read_back_while_points_are_committed(
    site: Site, seed: int
) -> None:
    chance = random.Random(seed)
    points = [await site.commit(), b""]
    await site.copies.start("one", None)
    points[1] = await site.commit()
    await site.copies.start("two", None)
    models = {"one": bytearray(points[0]), "two": bytearray(points[1])}
    for turn in range(60):
        name = chance.choice(["one", "two"])
        volume = site.volume(name)
        requests = [
            random_change(chance, models[name]) for _ in range(chance.randrange(1, 4))
        ]
        await ask(volume, *requests)
        assert [r.error for r in requests] == [0] * len(requests)
        if turn % 10 == 3:
            newest = await site.commit()
        if turn % 12 == 0:
            await check(volume, bytes(models[name]))
    for name, model in models.items():
        await check(site.volume(name), bytes(model))
    assert (site.directory / "data").read_bytes() == newest, "the secondary is as sent"


async def test_changes_keep_the_order_in_which_they_came(site: Site) -> None:
    wanted = bytearray(await site.commit())
    await site.copies.start("c", None)
    volume = site.volume("c")
    requests = []
    for value in range(200):
        data = bytes([value]) * 700
        at = 100 + value % 3 * 350
        wanted[at : at + 700] = data
        requests.append(HostRequest(HostCommand.WRITE, at, 700, data))
    done = [asyncio.create_task(ask(volume, r)) for r in requests]
    await asyncio.gather(*done)
    assert await read(volume, 0, DATA.size_bytes) == wanted


async def test_without_room_the_host_is_told_and_nobody_else(site: Site) -> None:
    point = await site.commit()
    await site.copies.start("c", None)
    volume = site.volume("c")
    first = HostRequest(HostCommand.WRITE, 0, 2 * TRACK, b"x" * (2 * TRACK), fua=True)
    await ask(volume, first)
    site.files.room = 0
    partial = HostRequest(HostCommand.WRITE, 10 * TRACK + 5, 100, b"y" * 100)
    overwrite = HostRequest(HostCommand.WRITE, TRACK, TRACK, b"z" * TRACK)
    taking = HostRequest(HostCommand.WRITE_ZEROES, 20 * TRACK, TRACK, no_hole=True)
    giving = HostRequest(HostCommand.WRITE_ZEROES, 30 * TRACK, TRACK)
    await ask(volume, partial, overwrite, taking, giving)
    errors = [r.error for r in (partial, overwrite, taking, giving)]
    assert errors == [errno.ENOSPC, 0, errno.ENOSPC, 0]
    wanted = b"x" * TRACK + b"z" * TRACK + point[2 * TRACK : 30 * TRACK] + bytes(TRACK)
    assert await read(volume, 0, 31 * TRACK) == wanted
    await site.commit()  # the applier has all the room that the reserve left


async def test_an_end_leaves_no_file_no_pin_and_no_service(site: Site) -> None:
    await site.commit()
    copy = await site.copies.start("c", None)
    volume = site.volume("c")
    assert not list((site.directory / "copies").iterdir()), "the file has no name"
    assert site.store.is_pinned(1)
    assert {name for name, _ in site.copies.exports()} == {
        "orders/data+c",
        "orders/log+c",
    }
    under_way = asyncio.create_task(
        ask(volume, HostRequest(HostCommand.WRITE, 0, TRACK, b"x" * TRACK))
    )
    await asyncio.sleep(0)
    await site.copies.stop(copy, site.disconnect)
    assert (await under_way)[0].error == 0
    assert sorted(site.gone) == ["orders/data+c", "orders/log+c"]
    (late,) = await ask(volume, HostRequest(HostCommand.READ, 0, TRACK))
    assert late.error == errno.ESHUTDOWN
    assert not site.store.is_pinned(1)
    assert site.copies.open("data", "c") is None
    assert not site.copies.all
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{fd}")
    ]
    assert not [path for path in held if str(site.directory / "copies") in path]
    with pytest.raises(RefusedError, match="being stopped already"):
        await site.copies.stop(copy, site.disconnect)
    await site.copies.start("c", None)  # the name is free again


async def test_what_a_kill_left_goes_at_the_next_start(site: Site) -> None:
    copies = site.directory / "copies"
    copies.mkdir()
    (copies / "copy1.0.overlay").write_bytes(b"left")
    (copies / "notes.txt").write_bytes(b"not ours")
    site.copies.remove_leftovers()
    assert [path.name for path in copies.iterdir()] == ["notes.txt"]


async def test_what_cannot_be_started_is_refused_and_pins_nothing(site: Site) -> None:
    with pytest.raises(RefusedError, match="no recovery point here"):
        await site.copies.start(None, None)
    await site.commit()
    with pytest.raises(RefusedError, match=r"no point 7 here; it has: 1"):
        await site.copies.start(None, 7)
    assert (await site.copies.start(None, 1)).name == "copy1"
    assert (await site.copies.start(None, 1)).name == "copy2"
    with pytest.raises(RefusedError, match="already"):
        await site.copies.start("copy2", 1)
    with pytest.raises(RefusedError, match="name the test copy: group orders has copy"):
        site.copies.find(None)
    for _ in range(COPIES_MAX - 2):
        await site.copies.start(None, None)
    with pytest.raises(RefusedError, match="stop one of them"):
        await site.copies.start(None, None)
    for copy in site.copies.all:
        await site.copies.stop(copy, site.disconnect)
    (site.directory / "copies").rmdir()
    (site.directory / "copies").write_text("not a folder")
    with pytest.raises(StorageError):
        await site.copies.start("c", None)
    assert not site.store.is_pinned(1)
    (site.directory / "copies").unlink()
    await site.copies.start("c", None)


async def test_after_a_failed_flush_no_change_is_acknowledged(site: Site) -> None:
    await site.commit()
    await site.copies.start("c", None)
    volume = site.volume("c")
    file = volume.overlay._file

    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(file, name)

        def datasync(self) -> None:
            raise StorageError("broken", errno=errno.EIO, file=file.path)

    volume.overlay._file = Failing()  # type: ignore[assignment]
    flush = HostRequest(HostCommand.FLUSH, 0, 0)
    write = HostRequest(HostCommand.WRITE, 0, 512, bytes(512))
    await ask(volume, flush)
    volume.overlay._file = file
    await ask(volume, write)
    assert (flush.error, write.error) == (errno.EIO, errno.EIO)
    again = HostRequest(HostCommand.FLUSH, 0, 0)
    await ask(volume, again)
    assert again.error == errno.EIO
