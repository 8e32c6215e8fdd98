"""The host path, on a real file with real threads."""

from __future__ import annotations

import asyncio
import errno
import random

import pytest

from common.errors import StorageError
from common.ports import HostCommand
from primary_site.cut_reader import CutReader
from primary_site.group import CutImpossibleError, CutStarvedError
from tests.support.primary_host_site import (
    SIZE,
    TRACK,
    Failing,
    Site,
    Stopped,
    reached,
    turns,
)


async def test_a_volume_reads_what_was_written(site: Site) -> None:
    model = bytearray(SIZE)
    rng = random.Random(1)
    await site.commit_cut()
    for turn in range(120):
        offset = rng.randrange(SIZE)
        length = min(rng.choice((1, 511, 512, 4096, 70_000, 2_500_000)), SIZE - offset)
        kind = rng.choice(
            (HostCommand.WRITE, HostCommand.WRITE, HostCommand.TRIM)
            if turn % 2
            else (HostCommand.WRITE, HostCommand.WRITE_ZEROES)
        )
        data = rng.randbytes(length) if kind == HostCommand.WRITE else None
        request = await site.start(
            kind,
            offset,
            length,
            data=data,
            fua=rng.random() < 0.2,
            no_hole=rng.random() < 0.5,
        )
        assert request.error == 0
        model[offset : offset + length] = data or bytes(length)
        if turn % 40 == 20:
            await site.commit_cut()
    assert await site.read(0, SIZE) == model
    assert (site.directory / "data.img").read_bytes() == model


async def test_writes_in_flight_together_mark_and_keep_every_track(site: Site) -> None:
    rng = random.Random(2)
    before = rng.randbytes(SIZE)
    await site.write(0, before)
    await site.commit_cut()
    await site.write(TRACK, b"a" * TRACK)
    await site.group.make_cut(None)
    image = await site.read(0, SIZE)
    writes = []
    for _ in range(300):
        offset = rng.randrange(SIZE - 9000)
        data = rng.randbytes(rng.randrange(1, 9000))
        writes.append(
            site.start(HostCommand.WRITE, offset, len(data), data=data),
        )
    standing = site.volume.preserver.standing()
    assert standing is not None
    reader = CutReader(site.volume, standing)
    found = bytearray()
    for first in range(0, SIZE // TRACK, 16):
        (run,) = await reader.read([(first, 16)])
        found += run.data or bytes(16 * TRACK)
    assert found == image
    for write in writes:
        assert (await write).error == 0


async def test_a_held_gate_delays_writes_and_neither_reads_nor_flushes(
    site: Site,
) -> None:
    await site.write(0, b"x" * TRACK)
    site.group.gate.hold(lambda: None)
    write = site.start(HostCommand.WRITE, 0, TRACK, data=b"y" * TRACK)
    assert await site.read(0, TRACK) == b"x" * TRACK
    assert await site.flush() == 0
    await turns()
    assert not write.done()
    site.group.gate.release()
    assert (await write).error == 0


async def test_a_cut_waits_for_the_threads_of_writes_under_way(site: Site) -> None:
    await site.write(0, b"x")  # the region is hot
    stopped = Stopped("write", "data.img")
    site.files.rules.append(stopped)
    write = site.start(HostCommand.WRITE, 0, TRACK, data=b"y" * TRACK)
    await reached(stopped)
    # The connection that asked is gone; its write counts until the thread returns.
    site.volume.release()
    cut = asyncio.ensure_future(site.group.make_cut(None))
    late = site.start(HostCommand.WRITE, TRACK, TRACK, data=b"z" * TRACK)
    while not (site.group.gate.held or cut.done()):
        await asyncio.sleep(0)
    await turns()
    assert not cut.done()
    assert site.group.gate.in_flight == 1 or not late.done()
    stopped.go()
    await cut
    assert (await write).error == 0
    assert (await late).error == 0
    transferred = site.volume.changes.transferred
    assert transferred is not None
    assert transferred.parts[0].test(0)


async def test_a_cut_that_starves_lets_hosts_go_and_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site = Site(tmp_path_factory.mktemp("starved"))
    await site.open(hold_max="5ms", hold_retries=2)
    await site.write(0, b"x")
    stopped = Stopped("write", "data.img")
    site.files.rules.append(stopped)
    write = site.start(HostCommand.WRITE, 0, 1, data=b"y")
    await reached(stopped)
    with pytest.raises(CutStarvedError, match="hold_max"):
        await site.group.make_cut(None)
    assert not site.group.gate.held
    assert site.group.cut is None
    stopped.go()
    assert (await write).error == 0
    site.files.rules.clear()
    await site.commit_cut()
    assert not site.group.has_changed()
    await site.close()


async def test_a_failed_preserve_invalidates_before_the_device_is_written(
    site: Site,
) -> None:
    await site.write(0, b"a" * TRACK)
    await site.group.make_cut(None)
    standing = site.volume.preserver.standing()
    assert standing is not None
    seen: list[bool] = []

    def watch(operation: str, path: str, offset: int) -> None:
        if operation == "write" and path.endswith("data.img"):
            seen.append(standing.relation.valid)

    site.files.rules += [Failing("write", ".target", errno.EIO, 1), watch]
    assert await site.write(0, b"b" * TRACK) == 0
    assert seen == [False]
    assert "injected" in site.group.why_invalid()
    assert await site.read(0, TRACK) == b"b" * TRACK


async def test_room_that_preserving_took_is_given_back_before_a_host_sees_enospc(
    site: Site,
) -> None:
    await site.write(0, b"a" * TRACK)
    await site.group.make_cut(None)
    truncated: list[int] = []
    full = Failing("write", "data.img", errno.ENOSPC, 1)

    def watch(operation: str, path: str, offset: int) -> None:
        if operation == "truncate" and path.endswith(".target"):
            truncated.append(full.met)

    site.files.rules += [full, watch]
    assert await site.write(0, b"b" * TRACK) == 0
    assert truncated == [1]
    assert site.group.why_invalid()
    site.files.rules[:] = [Failing("write", "data.img", errno.ENOSPC, 2)]
    assert await site.write(0, b"c" * TRACK) == errno.ENOSPC


async def test_after_a_failed_flush_nothing_is_acknowledged_again(site: Site) -> None:
    assert await site.write(0, b"a" * TRACK) == 0
    site.files.rules.append(Failing("datasync", "data.img", errno.EIO, 1))
    assert await site.flush() == errno.EIO
    assert await site.flush() == errno.EIO
    assert await site.write(0, b"b" * TRACK) == errno.EIO
    assert await site.write(SIZE - TRACK, b"b" * TRACK, fua=True) == errno.EIO
    assert await site.read(0, TRACK) == b"a" * TRACK
    hot = set(site.volume.heat.table)
    await site.group.upkeep.tend()
    await site.group.upkeep.tend()
    assert set(site.volume.heat.table) == hot, "a region cooled by a lying fdatasync"
    with pytest.raises(StorageError):
        await site.group.destage()
    with pytest.raises(CutImpossibleError):
        await site.group.make_cut(None)


async def test_a_failed_region_log_fails_its_writers_and_hangs_nobody(
    site: Site,
) -> None:
    site.files.rules.append(Failing("datasync", ".regions", errno.EIO, 1))
    assert await site.write(0, b"a") == errno.EIO
    assert await site.write(SIZE - 1, b"a") == errno.EIO


async def test_a_flush_is_an_fdatasync_begun_after_it_was_asked_for(
    site: Site,
) -> None:
    stopped = Stopped("datasync", "data.img")
    syncs: list[str] = []

    def count(operation: str, path: str, offset: int) -> None:
        if operation == "datasync" and path.endswith("data.img"):
            syncs.append(path)

    await site.write(0, b"a")
    site.files.rules += [count, stopped]
    first = site.start(HostCommand.FLUSH, 0, 0)
    await reached(stopped)
    assert await site.write(0, b"b") == 0
    second = site.start(HostCommand.FLUSH, 0, 0)
    third = site.start(HostCommand.FLUSH, 0, 0)
    await turns()
    assert not any(flush.done() for flush in (first, second, third))
    stopped.go()
    for flush in (first, second, third):
        assert (await flush).error == 0
    assert len(syncs) == 2, "flushes that wait together share one"


async def test_every_writer_of_a_heating_region_waits_for_the_log(site: Site) -> None:
    stopped = Stopped("datasync", ".regions")
    site.files.rules.append(stopped)
    writes = [
        site.start(HostCommand.WRITE, n * TRACK, 3, data=b"abc") for n in range(5)
    ]
    await reached(stopped)
    late = site.start(HostCommand.WRITE, 0, 3, data=b"xyz")
    await turns()
    assert not any(write.done() for write in [*writes, late])
    assert (site.directory / "data.img").read_bytes() == bytes(SIZE)
    stopped.go()
    for write in [*writes, late]:
        assert (await write).error == 0


async def test_few_hot_regions_make_progress_under_load_on_many(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site = Site(tmp_path_factory.mktemp("hot"))
    size = 200 * 8192
    await site.open(region_size="8KiB", hot_regions_max=16, size=f"{size}B")
    rng = random.Random(3)

    async def writer(number: int) -> None:
        for _ in range(25):
            length = rng.choice((512, 4096, 12_000, 40_000))  # over region boundaries
            offset = rng.randrange(size - length)
            assert await site.write(offset, bytes([number]) * length) == 0
            assert len(site.volume.heat.durable.log.hot) <= 16

    async with asyncio.timeout(60):
        await asyncio.gather(*(writer(n) for n in range(12)))
    assert len(site.volume.heat.table) <= 16 + 1
    await site.close()


async def test_an_overlapping_write_waits_for_the_track_being_preserved(
    site: Site,
) -> None:
    await site.write(0, b"a" * TRACK)
    await site.group.make_cut(None)
    stopped = Stopped("write", ".target")
    site.files.rules.append(stopped)
    first = site.start(HostCommand.WRITE, 0, 10, data=b"b" * 10)
    await reached(stopped)
    second = site.start(HostCommand.WRITE, 5, 10, data=b"c" * 10)
    beside = site.start(HostCommand.WRITE, 20, 10, data=b"e" * 10)
    other = site.start(HostCommand.WRITE, 2 << 20, 10, data=b"d" * 10)
    # Zero tracks are not copied: that write needs no target.
    assert (await other).error == 0
    assert not second.done()
    assert not beside.done(), "it shares no byte with the first, but the track"
    stopped.go()
    assert (await first).error == 0
    assert (await second).error == 0
    assert (await beside).error == 0
    wanted = b"bbbbb" + b"c" * 10 + b"a" * 5 + b"e" * 10 + b"a"
    assert await site.read(0, len(wanted)) == wanted


async def test_a_clean_stop_is_known_as_one_and_an_altered_device_is_suspect(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site = Site(tmp_path_factory.mktemp("clean"))
    await site.open()
    await site.write(0, b"a" * TRACK)
    await site.commit_cut()
    await site.group.upkeep.tend()
    await site.group.upkeep.tend()
    await site.write(3 * TRACK, b"b" * TRACK)
    await site.close()

    await site.open()
    changes = site.volume.changes
    assert [list(b.runs()) for b in changes.carried] == [[(3, 1)]]
    assert changes.suspect is None
    await site.close()

    with (site.directory / "data.img").open("r+b") as device:
        device.write(b"behind the back")
    await site.open()
    changes = site.volume.changes
    assert [b.count for b in changes.carried] == [SIZE // TRACK]
    assert changes.suspect is not None
    assert site.group.state.volumes["data"].suspect
    await site.close()


@pytest.mark.parametrize("command", [HostCommand.TRIM, HostCommand.WRITE_ZEROES])
async def test_zeroes_are_changes_like_any_other(site: Site, command: int) -> None:
    await site.write(0, b"a" * 3 * TRACK)
    await site.commit_cut()
    assert (await site.start(command, 100, 2 * TRACK)).error == 0
    assert list(site.volume.changes.flashcopy.bitmap.runs()) == [(0, 3)]
    expected = b"a" * 100 + bytes(2 * TRACK) + b"a" * (TRACK - 100)
    assert await site.read(0, 3 * TRACK) == expected
