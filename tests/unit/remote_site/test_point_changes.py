"""What a recovery point tells of the one before it, and reads answered in runs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from common.ports import BASE_ALLOCATION, HostCommand, HostRequest, HostVolume
from common.storage.extents import (
    DIRTY_BITMAP,
    HOLE_RUN_BYTES_MIN,
    SPARSE_READ_BYTES_MIN,
)
from remote_site.store import GroupStore, Point
from tests.support.remote_store_group import (
    BINDING,
    DATA,
    OFFERS,
    SETTINGS,
    ask,
    filled,
    make_files,
    read,
    tracks_of,
    zero_tracks,
)
from tests.support.simulated_files import InlineThreads

TRACKS = DATA.size_bytes // DATA.track_bytes


def keep_all(points: Any) -> set[int]:
    return {point.number for point in points}


async def bound(**options: Any) -> GroupStore:
    store = await GroupStore.open(make_files(), InlineThreads(), SETTINGS, **options)
    await store.bind(**BINDING)
    return store


async def commit(store: GroupStore, number: int, records: list[Any]) -> None:
    await store.apply(0, records)
    await store.flush()
    await store.commit(
        number=number, cycle_id=bytes([number]) * 16, cut_ns=number, label=None
    )


def opened(store: GroupStore, number: int) -> HostVolume:
    volume = store.open_point("data", number)
    assert volume is not None
    return volume


async def dirty_tracks(volume: HostVolume) -> set[int]:
    (request,) = await ask(
        volume,
        HostRequest(
            HostCommand.BLOCK_STATUS, 0, DATA.size_bytes, contexts=(DIRTY_BITMAP,)
        ),
    )
    assert request.error == 0
    found: set[int] = set()
    at = 0
    for length, flags in request.data[0]:
        if flags:
            found |= set(range(at, at + length // DATA.track_bytes))
        at += length // DATA.track_bytes
    assert at == TRACKS
    return found


async def test_the_oldest_point_has_nothing_to_be_compared_with() -> None:
    store = await bound(retain=keep_all)
    await commit(store, 1, [tracks_of(DATA, 0, filled(DATA, 1, 4))])
    await commit(store, 2, [tracks_of(DATA, 1, filled(DATA, 2, 2))])
    assert opened(store, 1).contexts == (BASE_ALLOCATION,)
    second = opened(store, 2)
    assert second.contexts == (BASE_ALLOCATION, DIRTY_BITMAP)
    assert second.description.endswith("orders/data@2, changes since @1")
    assert await dirty_tracks(second) == {1, 2}


async def test_what_comes_after_a_point_is_not_among_its_changes() -> None:
    store = await bound(retain=keep_all)
    await commit(store, 1, [tracks_of(DATA, 0, filled(DATA, 1, 4))])
    await commit(store, 4, [tracks_of(DATA, 7, filled(DATA, 2))])
    volume = opened(store, 4)
    await commit(store, 5, [zero_tracks(20, 9)])
    await store.apply(0, [tracks_of(DATA, 40, filled(DATA, 3))])
    assert await dirty_tracks(volume) == {7}
    assert await dirty_tracks(opened(store, 5)) == set(range(20, 29))


@pytest.mark.parametrize("seed", range(5))
async def test_every_track_that_differs_from_the_point_before_is_told(
    seed: int,
) -> None:
    rng = random.Random(seed)
    store = await bound(retain=keep_all)
    images: dict[int, bytes] = {}
    for number in range(1, 8):
        records = []
        for _ in range(rng.randrange(4)):
            first = rng.randrange(TRACKS)
            count = rng.randrange(1, min(20, TRACKS - first) + 1)
            records.append(
                zero_tracks(first, count)
                if rng.random() < 0.4
                else tracks_of(DATA, first, rng.randbytes(count * DATA.track_bytes))
            )
        await commit(store, number, records)
        images[number] = await read(opened(store, number), 0, DATA.size_bytes)
    for number in range(2, 8):
        size = DATA.track_bytes
        differs = {
            t
            for t in range(TRACKS)
            if images[number][t * size : (t + 1) * size]
            != images[number - 1][t * size : (t + 1) * size]
        }
        assert differs <= await dirty_tracks(opened(store, number))
        await check_holes_and_runs(opened(store, number), images[number], rng)


async def check_holes_and_runs(
    volume: HostVolume, image: bytes, rng: random.Random
) -> None:
    for _ in range(6):
        offset = rng.randrange(len(image) - SPARSE_READ_BYTES_MIN)
        length = rng.randrange(SPARSE_READ_BYTES_MIN, len(image) - offset + 1)
        told, data = await ask(
            volume,
            HostRequest(
                HostCommand.BLOCK_STATUS, offset, length, contexts=(BASE_ALLOCATION,)
            ),
            HostRequest(HostCommand.READ, offset, length, sparse_ok=True),
        )
        at = offset
        for size, flags in told.data[0]:
            assert not (flags and any(image[at : at + size]))
            at += size
        assert at == offset + length
        at = offset
        for size, part in data.data:
            expected = image[at : at + size]
            assert part == expected if part is not None else not any(expected)
            assert part is not None or size >= HOLE_RUN_BYTES_MIN
            at += size
        assert at == offset + length


async def test_a_long_read_leaves_holes_out_and_a_short_one_does_not() -> None:
    store = await bound(retain=keep_all)
    await commit(store, 1, [tracks_of(DATA, 30, filled(DATA, 1, 2))])
    long, short = await ask(
        opened(store, 1),
        HostRequest(HostCommand.READ, 0, DATA.size_bytes, sparse_ok=True),
        HostRequest(HostCommand.READ, 0, 4096, sparse_ok=True),
    )
    assert [(size, part is None) for size, part in long.data] == [
        (30 * 4096, True),
        (2 * 4096, False),
        (32 * 4096, True),
    ]
    assert short.data == bytes(4096)


async def test_who_asks_for_changes_keeps_the_point_before_until_the_release() -> None:
    kept = {1, 2}

    def retain(points: Any) -> set[int]:
        return {p.number for p in points} & kept

    store = await bound(retain=retain)
    await commit(store, 1, [tracks_of(DATA, 0, filled(DATA, 1, 4))])
    await commit(store, 2, [tracks_of(DATA, 3, filled(DATA, 2))])
    reader, asker = opened(store, 2), opened(store, 2)
    await ask(
        reader,
        HostRequest(HostCommand.BLOCK_STATUS, 0, 512, contexts=(BASE_ALLOCATION,)),
    )
    assert not store.is_pinned(1), "only to be read, a point costs what it ever did"
    assert await dirty_tracks(asker) == {3}
    assert store.is_pinned(1)
    kept.clear()
    await commit(store, 3, [zero_tracks(9, 1)])
    assert numbers(store) == [1, 2, 3]
    assert await dirty_tracks(asker) == {3}
    asker.release()
    await commit(store, 4, [zero_tracks(9, 1)])
    assert numbers(store) == [2, 3, 4]
    # Its point before has gone before it ever asked: more than changed, never less.
    assert await dirty_tracks(reader) == set(range(TRACKS))
    reader.release()
    await commit(store, 5, [zero_tracks(9, 1)])
    assert numbers(store) == [5]


def numbers(store: GroupStore) -> list[int]:
    points: list[Point] = store.points
    return [point.number for point in points]


async def test_volumes_are_told_apart() -> None:
    store = await bound(retain=keep_all)
    await commit(store, 1, [tracks_of(DATA, 0, filled(DATA, 1))])
    await store.apply(1, [tracks_of(OFFERS[1], 2, filled(OFFERS[1], 5))])
    await commit(store, 2, [tracks_of(DATA, 1, filled(DATA, 1))])
    assert await dirty_tracks(opened(store, 2)) == {1}
