"""Devices that fail: what the host is told, what fails with them, what goes on.

The devices are files of a FUSE file system with rules, or of a tiny tmpfs: the
daemons meet real errors of real system calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.nbd.protocol import NbdError
from common.service.control_client import CommandFailedError
from tests.support.faulty_disk import FaultyDisk
from tests.support.nbd_client import NbdClient, NbdReplyError
from tests.support.primary_host_site import Failing
from tests.support.sites import Pair, VolumeSpec, until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_package("fusermount3", "mount")]

MIB = 1 << 20
SIZE_BYTES = 4 * MIB
BIG_BYTES = 28 * MIB
"""More than is on its way to a remote that has stopped reading."""

BLOCK_BYTES = 4096
OLD = b"o" * BLOCK_BYTES
NEW = b"n" * BLOCK_BYTES
FOR_EVER = 1 << 30
TURNS = 100

Ask = Callable[[NbdClient], Awaitable[object]]

CHANGES: dict[str, Ask] = {
    "write": lambda client: client.write(0, NEW),
    "a write elsewhere": lambda client: client.write(SIZE_BYTES // 2, NEW),
    "an unaligned write": lambda client: client.write(512, NEW),
    "write with FUA": lambda client: client.write(0, NEW, fua=True),
    "trim": lambda client: client.trim(0, BLOCK_BYTES),
    "write zeroes": lambda client: client.write_zeroes(0, BLOCK_BYTES),
    "flush": lambda client: client.flush(),
}


async def refusal(asked: Awaitable[object]) -> int:
    """Return the NBD error that the host is told; none is a failure."""
    with pytest.raises(NbdReplyError) as told:
        await asked
    return told.value.number


class Sites:
    """Both sites; `bad` of group g is on the faulty disk, all else is sound."""

    def __init__(self, pair: Pair, disk: FaultyDisk) -> None:
        self.pair = pair
        self.disk = disk
        self._clients: list[NbdClient] = []

    async def client(self, export: str) -> NbdClient:
        client = await self.pair.primary.nbd(export)
        self._clients.append(client)
        return client

    def fail(self, operation: str, number: int, times: int = FOR_EVER) -> Failing:
        """Have the bad device fail this operation so many times."""
        rule = Failing(operation, "bad.img", number, times)
        self.disk.rules.append(rule)
        return rule

    def mend(self) -> None:
        self.disk.rules.clear()

    async def check_others(self) -> None:
        """The other group serves its host, and its cycles commit."""
        client = await self.pair.primary.nbd("h/far")
        data = random.Random(self.pair.committed("h")).randbytes(BLOCK_BYTES)
        before = self.pair.committed("h")
        await client.write(0, data, fua=True)
        await client.flush()
        assert await client.read(0, BLOCK_BYTES) == data
        await client.disconnect()
        await until(lambda: self.pair.committed("h") > before, "h goes on")

    async def restart(self) -> None:
        for client in self._clients:
            client.abort()
        self._clients.clear()
        await self.pair.primary.stop()
        await self.pair.primary.start()
        await self.pair.connected()

    async def check_next_cut(self) -> None:
        """Both volumes of g are at the remote as they are here."""
        await self.pair.cut()
        for export in self.pair.exports:
            here = await self.pair.primary.read_whole(export)
            assert await self.pair.remote.read_whole(export) == here, export

    def abort(self) -> None:
        for client in self._clients:
            client.abort()


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[Sites]:
    with FaultyDisk(tmp_path / "disk") as disk:
        (tmp_path / "bad.img").symlink_to(disk.path / "bad.img")
        volumes = [VolumeSpec("bad", SIZE_BYTES), VolumeSpec("near", SIZE_BYTES)]
        with Pair(
            tmp_path, volumes, others=[VolumeSpec("far", SIZE_BYTES)], tcp=True
        ) as pair:
            await pair.start()
            found = Sites(pair, disk)
            for export in pair.exports:
                await (await found.client(export)).write(0, OLD, fua=True)
            await pair.cut()
            yield found
            found.abort()


# -- errors of single operations -----------------------------------------------------


ERRORS = {
    errno.EIO: NbdError.EIO,
    errno.ENOSPC: NbdError.ENOSPC,
    errno.EDQUOT: NbdError.ENOSPC,
    errno.EFBIG: NbdError.ENOSPC,
    errno.ENOMEM: NbdError.ENOMEM,
    errno.EROFS: NbdError.EPERM,
}


async def test_the_host_is_told_the_error_and_may_go_on(sites: Sites) -> None:
    pair, client = sites.pair, await sites.client("g/bad")
    near = await sites.client("g/near")
    asks: list[tuple[str, Ask]] = [
        ("read", lambda client: client.read(0, BLOCK_BYTES)),
        ("write", lambda client: client.write(0, NEW)),
        ("write", lambda client: client.write(0, NEW, fua=True)),
        ("write", lambda client: client.write(700, NEW)),
        ("allocate", lambda client: client.trim(0, BLOCK_BYTES)),
        ("allocate", lambda client: client.write_zeroes(0, BLOCK_BYTES)),
    ]
    for number, expected in ERRORS.items():
        for operation, ask in asks:
            await client.write(0, NEW)  # a hole would be read without the device
            rule = sites.fail(operation, number)
            told = await refusal(ask(client))
            assert told == expected, (operation, errno.errorcode[number])
            assert rule.met, "the device was asked"
            await near.write(0, NEW, fua=True)
            sites.mend()
            await ask(client)
    assert pair.group("g")["state"] != "failed", "only a failed flush loses data"
    await client.write(0, OLD, fua=True)
    await sites.check_next_cut()
    await sites.check_others()


async def test_one_bad_block_fails_its_request_and_no_other(sites: Sites) -> None:
    """Of requests that arrive together and are written together."""

    def bad_block(operation: str, path: str, offset: int) -> None:
        is_data = path == "bad.img" and operation in {"read", "write"}
        if is_data and offset // BLOCK_BYTES == 3:
            raise OSError(errno.EIO, "a bad block")

    client = await sites.client("g/bad")
    for _ in range(8):
        await client.write(0, NEW * 16)
        sites.disk.rules.append(bad_block)
        writes = [client.write(n * BLOCK_BYTES, NEW) for n in range(16)]
        ended = await asyncio.gather(*writes, return_exceptions=True)
        reads = [client.read(n * BLOCK_BYTES, BLOCK_BYTES) for n in range(16)]
        found = await asyncio.gather(*reads, return_exceptions=True)
        for n, end in enumerate(ended):
            if n == 3:
                assert isinstance(end, NbdReplyError)
                assert end.number == NbdError.EIO
                assert isinstance(found[n], NbdReplyError)
            else:
                assert end is None
                assert found[n] == NEW
        sites.mend()
    await sites.check_next_cut()


async def test_a_device_that_is_pulled_out_takes_nothing_else_along(
    sites: Sites,
) -> None:
    client = await sites.client("g/bad")
    sites.disk.pull_out()
    for ask in CHANGES.values():
        await refusal(ask(client))
    await refusal(client.read(0, BLOCK_BYTES))
    await sites.check_others()
    await sites.pair.primary.stop()


# -- a failed flush: fail-stop (I9) --------------------------------------------------


async def by_flush(sites: Sites, client: NbdClient, number: int) -> None:
    await client.write(0, NEW)
    other = await sites.client("g/bad")
    flushes = [client.flush(), other.flush(), client.flush()]
    told = [await refusal(flush) for flush in flushes]
    assert told == [number] * 3


async def by_fua(_sites: Sites, client: NbdClient, number: int) -> None:
    assert await refusal(client.write(0, NEW, fua=True)) == number


async def by_cut(sites: Sites, client: NbdClient, _number: int) -> None:
    """No host asked: it was the destage of a cut that found out."""
    await client.write(0, NEW)
    with pytest.raises(CommandFailedError):
        await sites.pair.cut()


@pytest.mark.parametrize(
    ("noticed", "number"),
    [
        (by_flush, errno.EIO),
        (by_fua, errno.ENOSPC),
        pytest.param(by_cut, errno.EIO, marks=pytest.mark.hunt),
    ],
)
async def test_after_a_failed_flush_nothing_succeeds_before_a_restart(
    sites: Sites, noticed: Callable[..., Awaitable[None]], number: int
) -> None:
    pair, client = sites.pair, await sites.client("g/bad")
    point = pair.committed("g")
    # Once: Linux says of the next one that all is well (fsyncgate).
    sites.fail("datasync", number, times=1)
    await noticed(sites, client, number)
    before = (sites.disk.backing / "bad.img").read_bytes()
    for export in pair.exports:
        for connection in (client, await sites.client(export)):
            if export != "g/bad" and connection is client:
                continue
            for name, ask in CHANGES.items():
                assert await refusal(ask(connection)) == number, (export, name)
    assert (sites.disk.backing / "bad.img").read_bytes() == before
    await until(lambda: bool(pair.group("g")["alarms"]), "an alarm")
    found = pair.group("g")
    assert found["state"] == "failed"
    assert "failed" in {alarm["name"] for alarm in found["alarms"]}
    assert "bad.img" in str(found["alarms"]), "it names the device"
    with pytest.raises(CommandFailedError):
        await pair.cut()
    assert pair.committed("g") == point, "no cut of it counts"
    await sites.check_others()

    await sites.restart()
    client = await sites.client("g/bad")
    assert await client.read(0, BLOCK_BYTES) == before[:BLOCK_BYTES]
    for ask in CHANGES.values():
        await ask(client)
    await sites.check_next_cut()
    assert pair.committed("g") > point


async def test_of_many_that_flush_at_once_none_is_told_of_success_afterwards(
    sites: Sites,
) -> None:
    """Hosts that write with FUA all the time: the first failure is the end."""
    clients = [await sites.client("g/bad") for _ in range(4)]
    rule: Failing | None = None
    refused: list[int] = []
    succeeded_late: list[int] = []

    async def work(number: int) -> None:
        nonlocal rule
        for turn in range(TURNS):
            if turn == TURNS // 2 and rule is None:
                rule = sites.fail("datasync", errno.EIO, times=1)
            had_failed = rule is not None and rule.met > 0
            offset = (number * TURNS + turn) * 512
            try:
                await clients[number].write(offset, bytes(512), fua=True)
            except NbdReplyError as error:
                refused.append(error.number)
                continue
            if had_failed:
                succeeded_late.append(number)

    await asyncio.gather(*(work(number) for number in range(len(clients))))
    assert refused
    assert set(refused) == {errno.EIO}
    assert not succeeded_late


# -- no room ---------------------------------------------------------------------------


@contextlib.contextmanager
def tiny(directory: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size; unmount it whatever happens."""
    directory.mkdir()
    option = f"size={size_bytes}"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", option, "tiny", directory], check=True
    )
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


async def write_all(
    client: NbdClient, seed: int, *, piece: int = 64 << 10
) -> list[int]:
    """Write the whole volume, many pieces at once; return each one's error, or 0."""
    size = client.info.size_bytes
    data = random.Random(seed).randbytes(size)
    writes = [
        client.write(at, memoryview(data)[at : at + piece])
        for at in range(0, size, piece)
    ]
    ended = await asyncio.gather(*writes, return_exceptions=True)
    return [end.number if isinstance(end, NbdReplyError) else 0 for end in ended]


async def test_a_full_device_is_told_as_no_space_and_trim_makes_room(
    tmp_path: Path,
) -> None:
    piece = 64 << 10
    with (
        tiny(tmp_path / "tiny", SIZE_BYTES // 2) as directory,
        Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)]) as pair,
    ):
        pair.device("v").symlink_to(directory / "v.img")
        await pair.primary.start()
        client = await pair.primary.nbd("g/v")
        told = await write_all(client, 1, piece=piece)
        assert set(told) == {0, NbdError.ENOSPC}
        image = random.Random(1).randbytes(SIZE_BYTES)
        for n, error in enumerate(told):
            if not error:
                at = n * piece
                assert await client.read(at, piece) == image[at : at + piece]
        await client.flush()
        full = told.index(int(NbdError.ENOSPC)) * piece
        assert await refusal(client.write(full, image[:piece], fua=True)) == 28
        await client.trim(0, SIZE_BYTES)
        await client.write(full, image[:piece], fua=True)
        assert await client.read(full, piece) == image[:piece]
        await client.disconnect()
        await pair.primary.stop()


def single(directory: Path, flashcopy: Path) -> Pair:
    """Return a pair whose FlashCopy targets are where the test wants them."""
    group: dict[str, object] = {
        "manual": True,
        "flashcopy": {"directory": str(flashcopy)},
    }
    return Pair(directory, [VolumeSpec("v", BIG_BYTES)], group=group)


@contextlib.asynccontextmanager
async def draining(pair: Pair) -> AsyncIterator[None]:
    """Cut, and keep the cycle in its drain: hosts' writes have to preserve."""
    pair.remote.pause()
    try:
        call: Any = pair.primary.call
        await asyncio.to_thread(call, "cut", group="g", wait=False, label=None)
        yield
    finally:
        pair.remote.resume()


async def overwrite_while_draining(
    pair: Pair, spoil: Callable[[], None], mend: Callable[[], None]
) -> None:
    """Overwrite all of a volume while a cycle drains and preserving fails."""
    await pair.start()
    client = await pair.primary.nbd("g/v")
    assert not any(await write_all(client, 1))
    async with draining(pair):
        spoil()
        assert not any(await write_all(client, 2)), "the host's writes come first"
        await client.flush()
        mend()
    image = random.Random(2).randbytes(BIG_BYTES)
    await pair.cut()
    assert bytes(await pair.primary.read_whole("g/v")) == image
    assert bytes(await pair.remote.read_whole("g/v")) == image
    assert pair.primary.events("cycle_abandoned"), "the old content found no place"
    assert not pair.primary.group()["alarms"]
    await client.disconnect()
    await pair.primary.stop()


def nothing() -> None:
    """The file system itself is what fails."""


async def test_a_full_flashcopy_directory_fails_no_host_write(tmp_path: Path) -> None:
    with (
        tiny(tmp_path / "tiny", MIB) as directory,
        single(tmp_path, directory) as pair,
    ):
        await overwrite_while_draining(pair, nothing, nothing)


async def test_room_that_preserving_took_is_the_hosts_first(tmp_path: Path) -> None:
    """Device and targets share a file system that is too small for both."""
    with (
        tiny(tmp_path / "tiny", BIG_BYTES + MIB) as directory,
        single(tmp_path, directory) as pair,
    ):
        pair.device("v").symlink_to(directory / "v.img")
        await overwrite_while_draining(pair, nothing, nothing)


@pytest.mark.parametrize(
    ("operation", "suffix", "number"),
    [
        pytest.param("write", ".target", errno.EIO, marks=pytest.mark.hunt),
        ("write", ".target", errno.ENOSPC),
        ("read", "v.img", errno.EIO),
    ],
)
async def test_preserving_that_fails_fails_no_host_write(
    tmp_path: Path, operation: str, suffix: str, number: int
) -> None:
    met = []

    def fail_at_the_end(asked: str, path: str, offset: int) -> None:
        # Where the drain has not come yet: it reads the device too.
        if asked == operation and path.endswith(suffix) and offset > BIG_BYTES - MIB:
            met.append(offset)
            raise OSError(number, "injected")

    # The daemon finds the group's folder already there.
    (tmp_path / "flashcopy").mkdir()
    with (
        FaultyDisk(tmp_path / "disk") as disk,
        single(tmp_path, tmp_path / "flashcopy") as pair,
    ):
        (tmp_path / "flashcopy" / "g").symlink_to(disk.path)
        pair.device("v").symlink_to(disk.path / "v.img")
        await overwrite_while_draining(
            pair, lambda: disk.rules.append(fail_at_the_end), disk.rules.clear
        )
        assert met
