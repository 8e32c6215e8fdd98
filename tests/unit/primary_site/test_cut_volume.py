"""`GROUP/VOLUME@cut`: its holes, what changed up to it, and its end."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from typing import Any

import pytest

from common.ports import BASE_ALLOCATION, HostCommand, HostRequest
from common.storage.extents import DIRTY_BITMAP, HOLE_RUN_BYTES_MIN
from primary_site.cut_volume import CutVolume
from tests.support.primary_host_site import SIZE, TRACK, Site


def opened(site: Site) -> CutVolume:
    standing = site.volume.preserver.standing()
    assert standing is not None
    return CutVolume(site.volume, standing)


async def ask(
    volume: CutVolume, command: int, offset: int, length: int, **m: Any
) -> Any:
    ended = asyncio.get_running_loop().create_future()
    request = HostRequest(command, offset, length, **m)
    volume.submit([request], lambda done: ended.set_result(done[0]))
    return await ended


async def told(volume: CutVolume, name: str, offset: int, length: int) -> Any:
    request = await ask(
        volume, HostCommand.BLOCK_STATUS, offset, length, contexts=(name,)
    )
    assert request.error == 0
    return request.data[0]


def check_holes(extents: Any, image: bytes, offset: int, length: int) -> int:
    """Check that the extents cover the range and lie nowhere; count hole bytes."""
    holes, end = 0, offset + length
    for size, flags in extents:
        assert size > 0
        if flags:
            assert flags == 3
            assert not any(image[offset : offset + size])
            holes += size
        offset += size
    assert offset == end
    return holes


async def change(site: Site, rng: random.Random) -> None:
    offset = rng.randrange(SIZE)
    length = min(rng.choice((1, 5000, 90_000)), SIZE - offset)
    command = rng.choice(
        (HostCommand.WRITE, HostCommand.TRIM, HostCommand.WRITE_ZEROES)
    )
    data = rng.randbytes(length) if command == HostCommand.WRITE else None
    request = await site.start(command, offset, length, data=data)
    assert request.error == 0


@pytest.mark.parametrize("seed", range(4))
async def test_a_hole_of_the_cut_is_one_whatever_hosts_have_done_since(
    site: Site, seed: int
) -> None:
    rng = random.Random(seed)
    holes = 0
    for _ in range(4):  # targets are used again, with what was kept in them
        for _ in range(rng.randrange(30)):
            await change(site, rng)
        await site.commit_cut()
        volume = opened(site)
        image = await site.read(0, SIZE)
        for _ in range(12):
            await change(site, rng)
            offset = rng.randrange(SIZE)
            length = rng.randrange(1, SIZE - offset + 1)
            extents = await told(volume, BASE_ALLOCATION, offset, length)
            holes += check_holes(extents, image, offset, length)
            request = await ask(
                volume, HostCommand.READ, offset, length, sparse_ok=True
            )
            assert request.error == 0
            check_runs(request.data, image[offset : offset + length])
    assert holes > SIZE // 4


def check_runs(data: Any, expected: bytes) -> None:
    if not isinstance(data, list):
        assert data == expected
        return
    at = 0
    for size, part in data:
        if part is None:
            assert size >= HOLE_RUN_BYTES_MIN
            assert not any(expected[at : at + size])
        else:
            assert len(part) == size
            assert part == expected[at : at + size]
        at += size
    assert at == len(expected)


async def test_holes_lie_where_the_volume_was_empty_at_the_cut(site: Site) -> None:
    await site.write(0, b"a" * 4 * TRACK)
    await site.commit_cut()
    volume = opened(site)
    expected = [(4 * TRACK, 0), (SIZE - 4 * TRACK, 3)]
    assert await told(volume, BASE_ALLOCATION, 0, SIZE) == expected
    # Holes filled since, and data emptied since: as at the cut all the same.
    await site.write(8 * TRACK, b"b" * 4 * TRACK)
    await site.start(HostCommand.TRIM, TRACK, 2 * TRACK)
    assert await told(volume, BASE_ALLOCATION, 0, SIZE) == expected


async def test_zeroes_that_take_room_are_left_out_too_unless_they_are_few(
    site: Site,
) -> None:
    await site.write(0, bytes(2 << 20))
    await site.commit_cut()
    volume = opened(site)
    assert await told(volume, BASE_ALLOCATION, 0, 2 << 20) == [(2 << 20, 0)]
    request = await ask(volume, HostCommand.READ, 0, (1 << 20) + 512, sparse_ok=True)
    assert request.data == [(1 << 20, None), (512, bytes(512))]


class Interrupted:
    """A file with something done in its thread right after it was looked at."""

    def __init__(self, file: Any, after: Any) -> None:
        self._file = file
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def extents(self, offset: int, length: int) -> Any:
        found = self._file.extents(offset, length)
        self._after()
        return found


async def test_what_is_trimmed_during_the_look_is_never_a_hole_of_the_cut(
    site: Site,
) -> None:
    """The device is looked at when the trim is done, the map before and after."""
    await site.write(0, b"a" * 64 * TRACK)
    await site.commit_cut()
    volume = opened(site)
    loop = asyncio.get_running_loop()
    device: Any = site.volume.device

    class TrimmedBefore(Interrupted):
        def extents(self, offset: int, length: int) -> Any:
            asyncio.run_coroutine_threadsafe(trim(), loop).result(20)
            return self._file.extents(offset, length)

    async def trim() -> None:
        site.volume.device = device
        request = await site.start(HostCommand.TRIM, 8 * TRACK, 8 * TRACK)
        assert request.error == 0

    site.volume.device = TrimmedBefore(device, None)
    extents = await told(volume, BASE_ALLOCATION, 0, 64 * TRACK)
    assert extents == [(64 * TRACK, 0)]


async def test_what_is_on_its_way_to_the_target_is_data(site: Site) -> None:
    await site.write(0, b"a" * 4 * TRACK)
    await site.commit_cut()
    volume = opened(site)
    waiting, go = threading.Event(), threading.Event()

    def stop(operation: str, path: str, offset: int) -> None:
        if operation == "write" and path.endswith(".target"):
            waiting.set()
            assert go.wait(20)

    site.files.rules.append(stop)
    # More than is preserved on the loop, so that a thread does it.
    write = site.start(HostCommand.TRIM, 0, 4 * TRACK)
    assert await asyncio.to_thread(waiting.wait, 20)
    assert await told(volume, BASE_ALLOCATION, 0, 4 * TRACK) == [(4 * TRACK, 0)]
    go.set()
    assert (await write).error == 0


async def test_what_changed_up_to_the_cut_is_told_until_the_next_one(
    site: Site,
) -> None:
    await site.commit_cut()
    first = opened(site)
    assert await told(first, DIRTY_BITMAP, 0, SIZE) == [(SIZE, 1)]
    await site.write(2 * TRACK, b"x" * 3 * TRACK)
    await site.group.make_cut(None)
    second = opened(site)
    expected = [(2 * TRACK, 0), (3 * TRACK, 1), (SIZE - 5 * TRACK, 0)]
    await site.write(0, b"y" * 9 * TRACK)
    # As transferred, united, and after the commit: the same answer.
    assert await told(second, DIRTY_BITMAP, 0, SIZE) == expected
    await site.group.settle_cut()
    assert len(site.volume.changes.at_cut) == 1, "its parts cost memory for nothing"
    assert await told(second, DIRTY_BITMAP, 0, SIZE) == expected
    await site.finish_cut()
    assert await told(second, DIRTY_BITMAP, 0, SIZE) == expected
    assert await told(second, DIRTY_BITMAP, 4 * TRACK, 2 * TRACK) == [
        (TRACK, 1),
        (TRACK, 0),
    ]


async def test_an_abandoned_cycle_adds_to_what_changed_up_to_the_next_cut(
    site: Site,
) -> None:
    await site.commit_cut()
    await site.write(2 * TRACK, b"x")
    await site.group.make_cut(None)
    await site.write(5 * TRACK, b"x")
    site.group.abandon_cycle()
    await site.commit_cut()
    extents = await told(opened(site), DIRTY_BITMAP, 0, 8 * TRACK)
    assert extents == [
        (2 * TRACK, 0),
        (TRACK, 1),
        (2 * TRACK, 0),
        (TRACK, 1),
        (2 * TRACK, 0),
    ]


@pytest.mark.parametrize("end", ["next cut", "withdrawn", "invalid"])
@pytest.mark.parametrize("name", [BASE_ALLOCATION, DIRTY_BITMAP])
async def test_no_answer_is_given_once_the_relation_has_ended(
    site: Site, name: str, end: str
) -> None:
    await site.write(0, b"x")
    await site.commit_cut()
    volume = opened(site)
    await told(volume, name, 0, SIZE)
    if end == "next cut":
        await site.commit_cut()
    elif end == "withdrawn":
        site.group.withdraw()
    else:
        standing = site.volume.preserver.standing()
        assert standing is not None
        standing.relation.invalidate("no room")
    request = await ask(volume, HostCommand.BLOCK_STATUS, 0, SIZE, contexts=(name,))
    assert request.error == errno.EIO
    long = await ask(volume, HostCommand.READ, 0, SIZE, sparse_ok=True)
    assert long.error == errno.EIO


async def test_a_relation_that_ends_during_the_look_gives_an_error(
    site: Site,
) -> None:
    await site.write(0, b"x")
    await site.commit_cut()
    volume = opened(site)
    standing = site.volume.preserver.standing()
    assert standing is not None
    site.volume.device = Interrupted(
        site.volume.device, lambda: standing.relation.invalidate("no room")
    )
    request = await ask(
        volume, HostCommand.BLOCK_STATUS, 0, SIZE, contexts=(BASE_ALLOCATION,)
    )
    assert request.error == errno.EIO
