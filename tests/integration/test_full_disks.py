"""Real daemons whose file systems fill up, fail, and get well again by themselves.

Hosts notice nothing of what happens at the remote or to FlashCopy targets; the point
stays as it was, both sites say what is wrong, and nobody restarts anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.exchanging_pair import ExchangingPair
from tests.support.faulty_disk import FaultyDisk
from tests.support.nbd_client import NbdClient, NbdReplyError
from tests.support.sites import Daemon, Pair, VolumeSpec, until
from tests.support.small_disk import remount, small_disk

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_package("fusermount3", "mount")]

MIB = 1 << 20
SIZE_BYTES = 4 * MIB
PIECE_BYTES = 64 << 10
OFTEN: dict[str, object] = {"interval": "200ms"}
NEVER_BY_ITSELF: dict[str, object] = {"manual": True}


def alarms(daemon: Daemon) -> dict[str, str]:
    """Return the alarms of the first group: name and text."""
    return {alarm["name"]: alarm["message"] for alarm in daemon.group()["alarms"]}


async def write_all(client: NbdClient, data: bytes, at: int = 0) -> None:
    """Write, many pieces at once; any error is raised."""
    pieces = range(0, len(data), PIECE_BYTES)
    writes = [client.write(at + n, data[n : n + PIECE_BYTES]) for n in pieces]
    await asyncio.gather(*writes)


class HostAtWork:
    """A host that writes to a track of its own all the time, durably."""

    def __init__(self, client: NbdClient, offset: int) -> None:
        self._client = client
        self._offset = offset
        self._is_over = False
        self.done = 0

    async def work(self) -> None:
        while not self._is_over:
            stamp = self.done.to_bytes(8, "big") * 64
            await self._client.write(self._offset, stamp, fua=True)
            self.done += 1

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[HostAtWork]:
        task = asyncio.create_task(self.work())
        try:
            yield self
            self._is_over = True
            await task  # raises what a write met
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def goes_on(self) -> None:
        goal = self.done + 20
        await until(lambda: self.done >= goal, "the host goes on")


async def check_same(pair: Pair) -> None:
    """The next cut has all of the primary."""
    await pair.cut()
    for export in pair.exports:
        here = await pair.primary.read_whole(export)
        assert await pair.remote.read_whole(export) == here


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        pytest.param("journal", "tmpfs", marks=pytest.mark.hunt),
        ("device", "tmpfs"),
        ("journal", "ext4"),
    ],
)
async def test_a_full_remote_says_so_keeps_its_point_and_goes_on_by_itself(
    tmp_path: Path, place: str, kind: str
) -> None:
    first, second = (random.Random(n).randbytes(SIZE_BYTES - MIB) for n in (1, 2))
    with (
        small_disk(tmp_path / "small", 24 * MIB, kind) as disk,
        Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)], group=OFTEN) as pair,
    ):
        if place == "device":
            pair.secondary("v").symlink_to(disk.path / "v.img")
            first = bytes(len(first))  # so that what comes has no room yet
        else:
            (disk.path / "state").mkdir()
            pair.remote.state_directory.symlink_to(disk.path / "state")
        await pair.start()
        client = await pair.primary.nbd("g/v")
        await write_all(client, first, MIB)
        await check_same(pair)
        point = pair.remote.group()["recovery_point"]["number"]
        disk.fill()
        await write_all(client, second, MIB)
        await until(lambda: "out_of_space" in alarms(pair.remote), "the remote is full")
        told = alarms(pair.remote)["out_of_space"]
        assert (".journal" if place == "journal" else "v.remote.img") in told
        await until(
            lambda: "remote_out_of_space" in alarms(pair.primary), "the primary says so"
        )
        async with HostAtWork(client, 0).at_work() as host:
            for _ in range(2):  # it is refused again, and nobody is hurt
                refused = len(pair.primary.events("link_refused"))
                await until(
                    lambda seen=refused: (
                        len(pair.primary.events("link_refused")) > seen
                    ),  # type: ignore[misc]
                    "it was tried again",
                )
                await host.goes_on()
                newest = pair.remote.group()["recovery_point"]["number"]
                image = await pair.remote.read_whole(f"g/v@{newest}")
                assert image[MIB:] == first, "the point is what it was"
                assert "remote_out_of_space" in alarms(pair.primary)
                assert "out_of_space" in alarms(pair.remote)
            disk.make_room()
            await until(lambda: not alarms(pair.remote), "the remote goes on")
            await until(lambda: not alarms(pair.primary), "the primary goes on")
            await host.goes_on()
        await check_same(pair)
        assert pair.remote.group()["recovery_point"]["number"] > point
        assert bytes(await pair.remote.read_whole("g/v"))[MIB:] == second
        await client.disconnect()


# -- the primary's own files ---------------------------------------------------------


def with_targets_at(directory: Path, trigger: dict[str, object]) -> dict[str, object]:
    return {**trigger, "flashcopy": {"directory": str(directory)}}


async def test_a_full_state_directory_fails_no_host_and_no_cycle(
    tmp_path: Path,
) -> None:
    options: dict[str, object] = {"track_size": "4KiB", "hot_regions_max": 16}
    volume = VolumeSpec("v", SIZE_BYTES, options, 16 << 10)
    group = with_targets_at(tmp_path / "targets", NEVER_BY_ITSELF)
    with (
        small_disk(tmp_path / "small", 8 * MIB) as disk,
        Pair(tmp_path, [volume], group=group) as pair,
    ):
        pair.primary.state_directory.symlink_to(disk.path)
        await pair.start()
        disk.fill()
        client = await pair.primary.nbd("g/v")
        for seed in range(3):  # each time all regions become hot, and cool
            await write_all(client, random.Random(seed).randbytes(SIZE_BYTES))
            await client.flush()
            await check_same(pair)
        pair.primary.kill()
        client.abort()
        await pair.primary.start()  # full it is still
        await pair.connected()
        client = await pair.primary.nbd("g/v")
        await write_all(client, random.Random(9).randbytes(MIB))
        await check_same(pair)
        assert not alarms(pair.primary)
        await client.disconnect()


async def test_a_state_directory_without_room_refuses_the_start_by_name(
    tmp_path: Path,
) -> None:
    with (
        small_disk(tmp_path / "small", 2 * MIB) as disk,
        Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)]) as pair,
    ):
        pair.primary.state_directory.symlink_to(disk.path)
        pair.primary.spawn()
        assert await pair.primary.ended() == 4
        text = pair.primary.log_text()
        assert "v.regions: No space left on device" in text
        assert "make room there" in text
        remount(disk, "size=16m")
        await pair.start()
        await check_same(pair)


async def test_targets_that_cannot_even_be_made_keep_no_host_from_its_volume(
    tmp_path: Path,
) -> None:
    group = with_targets_at(tmp_path / "small", OFTEN)
    with (
        # Room for the group's folder and one of two targets.
        small_disk(tmp_path / "small", MIB, options="nr_inodes=3") as disk,
        Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)], group=group) as pair,
    ):
        await pair.start()
        client = await pair.primary.nbd("g/v")
        async with HostAtWork(client, 0).at_work() as host:
            await until(
                lambda: "flashcopy_unavailable" in alarms(pair.primary), "an alarm"
            )
            assert "v.1.target" in alarms(pair.primary)["flashcopy_unavailable"]
            await host.goes_on()
            assert pair.remote.group()["recovery_point"] is None
            remount(disk, "nr_inodes=100")
            await until(lambda: not alarms(pair.primary), "it goes on")
            await host.goes_on()
        await check_same(pair)
        await client.disconnect()


# -- what can't be read in the drain -------------------------------------------------


async def test_a_device_that_cannot_be_drained_is_tried_again_until_it_can(
    tmp_path: Path,
) -> None:
    bad_offset = 2 * MIB

    def bad_spot(operation: str, path: str, offset: int) -> None:
        if operation == "read" and path == "v.img" and offset == bad_offset:
            raise OSError(errno.EIO, "a bad spot")

    with (
        FaultyDisk(tmp_path / "disk") as disk,
        Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)], group=OFTEN) as pair,
    ):
        pair.device("v").symlink_to(disk.path / "v.img")
        await pair.start()
        client = await pair.primary.nbd("g/v")
        await write_all(client, random.Random(1).randbytes(SIZE_BYTES))
        await check_same(pair)
        disk.rules.append(bad_spot)
        point = pair.committed("g")
        async with HostAtWork(client, 0).at_work() as host:
            await client.write(bad_offset, b"n" * PIECE_BYTES)
            await until(lambda: "cycle_abandoned" in alarms(pair.primary), "an alarm")
            assert (
                "v.img: Input/output error" in alarms(pair.primary)["cycle_abandoned"]
            )
            tried = len(pair.primary.events("cycle_abandoned"))
            await until(
                lambda: len(pair.primary.events("cycle_abandoned")) > tried,
                "it is tried again",
            )
            await host.goes_on()
            assert pair.group("g")["state"] != "failed"
            disk.rules.clear()
            await until(lambda: not alarms(pair.primary), "it goes on by itself")
            assert pair.committed("g") > point
        await check_same(pair)
        await client.disconnect()


async def test_a_target_that_cannot_be_read_costs_its_cycle_only(
    tmp_path: Path,
) -> None:
    def unreadable(operation: str, path: str, offset: int) -> None:
        if operation == "read" and path.endswith(".target"):
            raise OSError(errno.EIO, "a bad spot")

    size = 28 * MIB  # more than is on its way to a remote that has stopped reading
    (tmp_path / "targets").mkdir()
    # A cut as soon as all of it has changed, and the next by itself.
    group = with_targets_at(tmp_path / "targets", {"changed": f"{size}B"})
    with (
        FaultyDisk(tmp_path / "disk") as disk,
        Pair(tmp_path, [VolumeSpec("v", size)], group=group) as pair,
    ):
        (tmp_path / "targets" / "g").symlink_to(disk.path)
        await pair.start()
        client = await pair.primary.nbd("g/v")
        await write_all(client, random.Random(1).randbytes(size))
        await check_same(pair)
        with standing_still(pair):
            await write_all(client, random.Random(2).randbytes(size))
            await until(
                lambda: pair.primary.group()["state"] == "draining", "a cycle drains"
            )
            await write_all(client, random.Random(3).randbytes(size))
            disk.rules.append(unreadable)
        await until(lambda: "cycle_abandoned" in alarms(pair.primary), "an alarm")
        assert ".target" in alarms(pair.primary)["cycle_abandoned"]
        disk.rules.clear()
        await until(lambda: not alarms(pair.primary), "it goes on by itself")
        await check_same(pair)
        await client.disconnect()


@contextlib.contextmanager
def standing_still(pair: Pair) -> Iterator[None]:
    """Keep a cycle in its drain: the remote reads nothing."""
    pair.remote.pause()
    try:
        yield
    finally:
        pair.remote.resume()


@pytest.mark.hunt
async def test_after_a_takeover_points_go_before_a_host_s_write_fails(
    tmp_path: Path,
) -> None:
    chance = random.Random(3)
    with (
        small_disk(tmp_path / "small", 6 * MIB) as disk,
        ExchangingPair(tmp_path, [VolumeSpec("v", SIZE_BYTES)]) as pair,
    ):
        text = pair.remote.config_path.read_text()
        journal = f'[group.journal]\ndirectory = "{disk.path}"\n\n[[group.volume]]'
        text = text.replace("[[group.volume]]", journal)
        text = text.replace('peer = "a"', 'peer = "a"\nretain = ["all for 1h"]', 1)
        pair.remote.config_path.write_text(text)
        await pair.start()
        client = await pair.primary.nbd("g/v")
        await write_all(client, chance.randbytes(SIZE_BYTES))
        for _ in range(3):
            await write_all(client, chance.randbytes(MIB // 4), MIB)
            await client.flush()
            newest = await pair.cut()
        pair.primary.kill()
        await pair.reached(pair.remote, "the loss is noticed", state="disconnected")
        await pair.done(pair.remote, "takeover", "g")
        listed = pair.remote.call("points", group="g")
        assert len(listed) >= 3
        reader = await pair.remote.nbd(f"g/v@{listed[-1]['number']}")
        kept = await pair.remote.nbd(f"g/v@{newest['number']}")
        before = bytes(await kept.read(0, SIZE_BYTES))

        disk.fill()
        host = await pair.remote.nbd("g/v")
        await write_all(host, data := chance.randbytes(SIZE_BYTES))
        await host.flush()
        assert bytes(await pair.remote.read_whole("g/v")) == data
        await until(lambda: "points_given_up" in alarms(pair.remote), "it is said")
        for each in (reader, kept):
            with pytest.raises(NbdReplyError):
                await each.read(0, MIB)
        assert before != data
        assert pair.remote.call("points", group="g") == []
        disk.make_room()

        pair.remote.kill()
        await pair.remote.start()
        assert bytes(await pair.remote.read_whole("g/v")) == data
        await pair.primary.start()
        await pair.reached(pair.primary, "it is told", state="superseded")
        told = await pair.done(pair.primary, "failback", "g")
        await pair.received(pair.primary, told["fork"])
        assert bytes(await pair.primary.read_whole("g/v")) == data
        await pair.done(pair.remote, "switchover", "g")
        await pair.reached(pair.primary, "it sends", role="sending")
        await pair.connected()
        await check_same(pair)
