"""What a primary volume tells of itself, while hosts write and cuts are made."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from typing import Any

import pytest

from common.ports import BASE_ALLOCATION, HostCommand
from common.storage.extents import DIRTY_BITMAP
from primary_site.extents import NOTED_WRITES_MAX
from tests.support.primary_host_site import SIZE, TRACK, Site

BOTH = (BASE_ALLOCATION, DIRTY_BITMAP)


async def told(site: Site, name: str, offset: int = 0, length: int = SIZE) -> Any:
    request = await site.start(
        HostCommand.BLOCK_STATUS, offset, length, contexts=(name,)
    )
    assert request.error == 0
    return request.data[0]


async def dirty_tracks(site: Site) -> set[int]:
    found: set[int] = set()
    at = 0
    for length, flags in await told(site, DIRTY_BITMAP):
        assert length % TRACK == 0
        if flags:
            found |= set(range(at // TRACK, (at + length) // TRACK))
        at += length
    assert at == SIZE
    return found


class StoppedLook:
    """A device whose answer to `extents` is made, and then waits until `go`."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._go = threading.Event()
        self.looked = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def extents(self, offset: int, length: int) -> Any:
        found = self._device.extents(offset, length)
        self.looked.set()
        assert self._go.wait(20), "a test forgot to let a look go"
        return found

    def go(self) -> None:
        self._go.set()


async def test_before_the_first_cut_all_is_changed_afterwards_what_was_written(
    site: Site,
) -> None:
    everything = set(range(SIZE // TRACK))
    assert await dirty_tracks(site) == everything
    await site.commit_cut()
    assert await dirty_tracks(site) == set()
    await site.write(10 * TRACK + 7, b"x" * TRACK)
    await site.start(HostCommand.TRIM, 40 * TRACK, TRACK)
    await site.start(HostCommand.WRITE_ZEROES, 50 * TRACK, 3 * TRACK)
    assert await dirty_tracks(site) == {10, 11, 40, 50, 51, 52}
    await site.commit_cut()
    assert await dirty_tracks(site) == set()


async def test_an_abandoned_cycle_and_a_restart_keep_what_has_changed(
    site: Site,
) -> None:
    await site.commit_cut()
    await site.write(3 * TRACK, b"x")
    await site.group.make_cut(None)
    await site.group.settle_cut()
    await site.write(5 * TRACK, b"y")
    assert await dirty_tracks(site) == {5}
    site.group.abandon_cycle()
    assert await dirty_tracks(site) == {3, 5}
    await site.close()
    await site.open()
    assert await dirty_tracks(site) >= {3, 5}
    assert len(await dirty_tracks(site)) < SIZE // TRACK


async def test_a_write_is_called_changed_before_a_byte_of_it_is_there(
    site: Site,
) -> None:
    await site.write(0, b"x" * TRACK)
    await site.commit_cut()
    seen: list[Any] = []
    loop = asyncio.get_running_loop()

    def look(operation: str, path: str, offset: int) -> None:
        if operation == "write" and path.endswith("data.img"):
            if threading.current_thread() is threading.main_thread():
                seen.append(site.volume.changes.flashcopy.bitmap.test(0))
                return
            asked = asyncio.run_coroutine_threadsafe(dirty_tracks(site), loop)
            seen.append(0 in asked.result(20))

    site.files.rules.append(look)
    await site.write(0, b"y" * TRACK)
    assert seen
    assert all(seen)


async def test_both_contexts_are_answered_in_the_order_asked(site: Site) -> None:
    await site.commit_cut()
    await site.write(0, b"x" * 2 * TRACK)
    for contexts in (BOTH, BOTH[::-1]):
        request = await site.start(
            HostCommand.BLOCK_STATUS, TRACK, 3 * TRACK, contexts=contexts
        )
        by_name = dict(zip(contexts, request.data, strict=True))
        assert by_name[DIRTY_BITMAP] == [(TRACK, 1), (2 * TRACK, 0)]
        assert by_name[BASE_ALLOCATION] == [(TRACK, 0), (2 * TRACK, 3)]
    assert set(site.volume.contexts) == set(BOTH)


async def test_a_hole_is_told_until_it_is_written_and_again_once_it_is_trimmed(
    site: Site,
) -> None:
    assert await told(site, BASE_ALLOCATION) == [(SIZE, 3)]
    await site.write(8 * TRACK, b"x" * TRACK)
    assert await told(site, BASE_ALLOCATION) == [
        (8 * TRACK, 3),
        (TRACK, 0),
        (SIZE - 9 * TRACK, 3),
    ]
    await site.start(HostCommand.TRIM, 8 * TRACK, TRACK)
    assert await told(site, BASE_ALLOCATION) == [(SIZE, 3)]


@pytest.mark.parametrize("many", [False, True])
async def test_no_answer_is_older_than_a_write_that_has_its_reply(
    site: Site, many: bool
) -> None:
    await site.write(0, b"x")  # the region is hot: what follows needs no thread
    stopped = StoppedLook(site.volume.device)
    site.volume.device = stopped
    asked = site.start(HostCommand.BLOCK_STATUS, 0, SIZE, contexts=(BASE_ALLOCATION,))
    assert await asyncio.to_thread(stopped.looked.wait, 20)
    at = {20 * TRACK, 21 * TRACK, SIZE - TRACK}  # some in cold regions
    for offset in at:
        assert await site.write(offset, b"y" * TRACK) == 0
    if many:
        for _ in range(NOTED_WRITES_MAX):
            await site.write(20 * TRACK, b"y")
    assert not asked.done()
    stopped.go()
    answer = await asked
    start = 0
    for length, flags in answer.data[0]:
        assert not any(flags and start <= offset < start + length for offset in at)
        start += length
    assert start == SIZE
    assert any(flags for _, flags in answer.data[0]) != many
    assert not site.volume.looks


async def test_a_device_that_can_not_be_asked_gives_its_error(site: Site) -> None:
    inner: Any = site.volume.device

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def extents(self, offset: int, length: int) -> Any:
            return inner.read(SIZE, 1)  # past the end

    site.volume.device = Refusing()
    request = await site.start(
        HostCommand.BLOCK_STATUS, 0, SIZE, contexts=(BASE_ALLOCATION,)
    )
    assert request.error == errno.EIO
    assert not site.volume.looks


async def test_a_read_beyond_memory_comes_in_runs_if_the_host_takes_them(
    site: Site,
) -> None:
    data = random.Random(3).randbytes(64 << 10)
    await site.write(1 << 20, data)
    long = 2 << 20  # more than is ever read on the loop
    request = await site.start(HostCommand.READ, 0, long, sparse_ok=True)
    assert [(size, None if d is None else bytes(d)) for size, d in request.data] == [
        (1 << 20, None),
        (64 << 10, data),
        (long - (1 << 20) - (64 << 10), None),
    ]
    whole = await site.start(HostCommand.READ, 0, long)
    assert bytes(whole.data) == bytes(1 << 20) + data + bytes(long - (17 << 16))


def fast_zero(site: Site, offset: int, length: int, **more: Any) -> Any:
    return site.start(HostCommand.WRITE_ZEROES, offset, length, fast=True, **more)


async def test_zeroing_is_fast_until_old_content_would_have_to_be_copied(
    site: Site,
) -> None:
    assert site.volume.fast_zero == site.volume.device.zeroes_fast(punch=True)
    if not site.volume.fast_zero:
        pytest.skip("no punching here")
    content = random.Random(4).randbytes(SIZE)
    await site.write(0, content)
    assert (await fast_zero(site, 0, TRACK)).error == 0
    assert await site.read(0, TRACK) == bytes(TRACK)
    await site.write(0, content[:TRACK])
    await site.group.make_cut(None)
    changed = await dirty_tracks(site)
    for offset, length in ((0, TRACK), (0, SIZE), (TRACK + 5, 20)):
        assert (await fast_zero(site, offset, length)).error == errno.ENOTSUP
    assert await site.read(0, SIZE) == content
    assert await dirty_tracks(site) == changed
    # Preserved already: nothing is left to be copied.
    await site.write(2 * TRACK, b"z" * TRACK)
    assert (await fast_zero(site, 2 * TRACK, TRACK)).error == 0
    assert await site.read(2 * TRACK, TRACK) == bytes(TRACK)
    assert (await fast_zero(site, 2 * TRACK, TRACK + 1)).error == errno.ENOTSUP
    # Without `fast` it is done, however long it takes.
    request = await site.start(HostCommand.WRITE_ZEROES, 0, SIZE)
    assert request.error == 0
    assert await site.read(0, SIZE) == bytes(SIZE)
    await site.finish_cut()
    await site.write(0, content)
    await site.commit_cut()
    assert (await fast_zero(site, 0, SIZE)).error == errno.ENOTSUP
    site.group.withdraw()  # marking goes on, and nothing is preserved
    assert (await fast_zero(site, 0, SIZE)).error == 0
    assert await site.read(0, SIZE) == bytes(SIZE)


async def test_a_fast_zero_is_refused_where_zeroes_would_be_written(
    site: Site,
) -> None:
    await site.write(0, b"x" * TRACK)

    class Slow:
        def __init__(self, device: Any) -> None:
            self._device = device

        def __getattr__(self, name: str) -> Any:
            return getattr(self._device, name)

        def zeroes_fast(self, *, punch: bool) -> bool:
            return punch

    site.volume.device = Slow(site.volume.device)
    refused = await fast_zero(site, 0, TRACK, no_hole=True)
    assert refused.error == errno.ENOTSUP
    assert await site.read(0, TRACK) == b"x" * TRACK
    assert (await fast_zero(site, 0, TRACK)).error == 0
