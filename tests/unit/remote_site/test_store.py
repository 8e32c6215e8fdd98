"""The remote store as the receiver sees it."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import (
    CorruptStateError,
    DeviceBusyError,
    DeviceError,
    ProtocolError,
    StateMismatchError,
    StorageError,
)
from common.replication.lineage import CycleName
from common.replication.session_messages import VolumeOffer
from common.replication.tracks import track_hash
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from remote_site.secondary_device import DeviceHoldsDataError
from remote_site.store import GroupStore, Point, StoreSettings
from tests.support.remote_store_group import (
    BINDING,
    DATA,
    LOG,
    OFFERS,
    SENDER,
    SETTINGS,
    filled,
    make_files,
    read,
    tracks_of,
    zero_tracks,
)
from tests.support.simulated_files import InlineThreads, SimulatedFiles


async def open_store(
    files: SimulatedFiles, settings: StoreSettings = SETTINGS, **options: Any
) -> GroupStore:
    return await GroupStore.open(files, InlineThreads(), settings, **options)


async def bound_store(files: SimulatedFiles, **options: Any) -> GroupStore:
    store = await open_store(files, **options)
    await store.bind(**BINDING)
    return store


async def commit(store: GroupStore, number: int, value: int | None = None) -> bytes:
    """Fill the first two tracks of both volumes and commit."""
    value = number if value is None else value
    for index, offer in enumerate(OFFERS):
        await store.apply(index, [tracks_of(offer, 0, filled(offer, value, 2))])
    await store.flush()
    return await store.commit(
        number=number, cycle_id=bytes([number]) * 16, cut_ns=number, label=None
    )


def everything(files: SimulatedFiles) -> dict[str, list[str]]:
    return {
        directory: files.list(directory)
        for directory in ("/devices", "/state/orders", "/journal/orders")
    }


# -- binding ---------------------------------------------------------------------------


async def test_before_the_first_bind_nothing_is_known() -> None:
    store = await open_store(make_files())
    assert (store.group_id, store.lineage, store.peer) == (None, None, None)
    assert (store.epoch, store.volumes, store.points) == (0, (), [])
    assert store.open_point("data") is None


async def test_bind_makes_sparse_devices_and_is_remembered() -> None:
    files = make_files()
    await (await bound_store(files)).close()
    store = await open_store(files)
    assert store.group_id == BINDING["group_id"]
    assert store.peer == "amsterdam"
    assert store.volumes == OFFERS
    for offer in OFFERS:
        device = files.open(SETTINGS.devices[offer.name])
        assert device.extents(0, offer.size_bytes) == [(offer.size_bytes, True)]
    relation = store.relation_id
    await store.bind(**BINDING)
    assert store.relation_id == relation


async def test_a_device_of_another_size_is_refused_and_nothing_changes() -> None:
    files = make_files()
    files.open("/devices/log.img", create=True).write(0, b"x" * 4096)
    store = await open_store(files)
    before = everything(files)
    with pytest.raises(
        DeviceError, match=r"'orders', volume 'log': .*log\.img has 4096"
    ):
        await store.bind(**BINDING)
    assert everything(files) == before
    files.remove("/devices/log.img")
    await store.bind(**BINDING)


async def test_a_larger_device_is_refused_even_if_it_is_one_hole() -> None:
    files = make_files()
    files.open("/devices/log.img", create=True).truncate(LOG.size_bytes + 4096)
    store = await open_store(files)
    with pytest.raises(DeviceError, match=rf"has {LOG.size_bytes + 4096}"):
        await store.bind(**BINDING)


async def test_a_device_that_holds_data_is_taken_as_it_is_only_where_accepted() -> None:
    for at in (0, DATA.size_bytes // 2, DATA.size_bytes - 1):
        files = make_files()
        device = files.open("/devices/data.img", create=True)
        device.truncate(DATA.size_bytes)
        device.write(at, b"x")
        store = await open_store(files)
        with pytest.raises(DeviceHoldsDataError, match="accept_existing = true"):
            await store.bind(**BINDING)
        await store.close()
        assert files.open("/devices/data.img").read(at, 1) == b"x"
        accepting = replace(SETTINGS, accept_existing=frozenset({"data"}))
        store = await GroupStore.open(files, InlineThreads(), accepting)
        await store.bind(**BINDING)
        assert files.open("/devices/data.img").read(at, 1) == b"x"


async def test_a_device_of_zeroes_is_taken_like_an_empty_one() -> None:
    files = make_files()
    device = files.open("/devices/data.img", create=True)
    device.write(0, bytes(DATA.size_bytes))
    await bound_store(files)


async def test_an_empty_file_left_by_a_crash_is_no_obstacle() -> None:
    files = make_files()
    files.open("/devices/data.img", create=True)
    await bound_store(files)


async def test_a_hole_left_by_a_crash_before_its_volume_grew_is_no_obstacle() -> None:
    files = make_files()
    files.open("/devices/data.img", create=True).truncate(DATA.size_bytes - 4096)
    await bound_store(files)
    assert files.open("/devices/data.img").size() == DATA.size_bytes


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"group_id": b"?" * 16}, "group id"),
        ({"lineage": b"?" * 16}, "lineage"),
        ({"peer": "berlin"}, "peer"),
        ({"volumes": (LOG, DATA)}, "volumes"),
        ({"volumes": (DATA, VolumeOffer("log", b"l" * 16, 8192, 8192))}, "volumes"),
    ],
)
async def test_another_sender_is_refused(change: dict[str, Any], named: str) -> None:
    files = make_files()
    store = await bound_store(files)
    with pytest.raises(StateMismatchError, match=f"/state/orders/store.*{named}"):
        await store.bind(**(BINDING | change))
    assert store.volumes == OFFERS


async def test_volumes_that_the_config_does_not_have_are_refused() -> None:
    store = await open_store(make_files())
    other = replace(DATA, name="other")
    with pytest.raises(StateMismatchError, match="data"):
        await store.bind(**(BINDING | {"volumes": (DATA, other)}))


async def test_a_config_with_other_volumes_is_refused_at_the_start() -> None:
    files = make_files()
    await (await bound_store(files)).close()
    settings = StoreSettings("orders", "/state/orders", "/journal/orders", {"x": "/x"})
    with pytest.raises(StateMismatchError, match="/state/orders/store"):
        await open_store(files, settings)
    await open_store(files)  # the refusal has let go of every lock


async def test_a_second_daemon_is_refused() -> None:
    files = make_files()
    await bound_store(files)
    with pytest.raises(DeviceBusyError):
        await open_store(files)
    other = StoreSettings("orders", "/state/2", "/journal/2", SETTINGS.devices)
    store = await open_store(files, other)
    with pytest.raises(DeviceBusyError, match=r"data\.img"):
        await store.bind(**BINDING)


# -- epochs, commits -------------------------------------------------------------------


async def test_an_epoch_is_never_used_twice() -> None:
    files = make_files()
    store = await bound_store(files)
    assert [await store.new_epoch(SENDER) for _ in range(3)] == [1, 2, 3]
    store = await open_store(files.after_kill())
    assert await store.new_epoch(SENDER) == 4


async def test_a_commit_opens_a_relation_and_is_idempotent() -> None:
    store = await bound_store(make_files())
    before = store.relation_id
    relation = await commit(store, 1)
    assert relation == store.relation_id != before
    again = await store.commit(number=1, cycle_id=b"\x01" * 16, cut_ns=9, label="x")
    assert again == relation
    assert store.points == [Point(1, b"\x01" * 16, 1, 1, None)]


async def test_a_commit_that_does_not_go_forward_is_refused() -> None:
    store = await bound_store(make_files())
    await commit(store, 5)
    for number in (4, 5):
        with pytest.raises(ProtocolError):
            await store.commit(number=number, cycle_id=b"?" * 16, cut_ns=0, label=None)
    assert [point.number for point in store.points] == [5]


async def test_the_newest_point_and_relation_outlive_a_power_cut() -> None:
    files = make_files()
    store = await bound_store(files)
    await commit(store, 1)
    relation = await commit(store, 2)
    await store.apply(0, [zero_tracks(0, 64)])
    rng = random.Random(1)
    for image in files.crash_images(rng, 20):
        recovered = await open_store(image)
        assert recovered.relation_id == relation
        volume = recovered.open_point("data")
        assert volume is not None
        assert await read(volume, 4000, 200) == b"\x02" * 200


async def test_current_as_of_only_goes_forward() -> None:
    files = make_files()
    store = await bound_store(files)
    await commit(store, 1)
    await store.advance_current(1, 500)
    await store.advance_current(1, 400)
    assert store.points[0].current_as_of_ns == 500
    assert (await open_store(files.after_kill())).points == store.points
    with pytest.raises(ProtocolError):
        await store.advance_current(2, 600)


async def test_differing_names_runs_and_leaves_the_rest() -> None:
    store = await bound_store(make_files())
    await store.apply(1, [tracks_of(LOG, 2, filled(LOG, 7, 3))])
    zero, last = track_hash(bytes(8192)), track_hash(bytes(8192 - 1536))
    seven = track_hash(filled(LOG, 7))
    hashes = [zero] * 9 + [last]
    assert await store.differing(1, 0, 10, b"".join(hashes)) == [(2, 3)]
    hashes[2:5] = [seven, zero, seven]
    hashes[9] = zero
    assert await store.differing(1, 0, 10, b"".join(hashes)) == [(3, 1), (9, 1)]
    assert await store.differing(1, 2, 1, seven) == []


# -- points ----------------------------------------------------------------------------


async def test_a_pinned_point_stays_while_newer_ones_commit() -> None:
    files = make_files()
    store = await bound_store(files)
    await commit(store, 1)
    volume = store.open_point("data")
    assert volume is not None
    assert store.is_pinned(1)
    for number in range(2, 6):
        await commit(store, number)
        assert await read(volume, 0, 8192) == b"\x01" * 8192
    assert [point.number for point in store.points] == [1, 2, 3, 4, 5]
    third = store.open_point("data", 3)
    assert third is not None
    assert await read(third, 100, 50) == b"\x03" * 50
    volume.release()
    volume.release()
    await commit(store, 6)
    assert [point.number for point in store.points] == [3, 4, 5, 6]
    third.release()
    await commit(store, 7)
    assert [point.number for point in store.points] == [7]
    assert files.list("/journal/orders") == ["data@7.journal", "log@7.journal"]


async def test_pins_end_with_the_process() -> None:
    files = make_files()
    store = await bound_store(files)
    await commit(store, 1)
    store.open_point("data")
    await commit(store, 2)
    files = files.after_kill()
    assert [point.number for point in (await open_store(files)).points] == [2]
    assert files.list("/journal/orders") == ["data@2.journal", "log@2.journal"]


def keep_three(points: Sequence[Point]) -> set[int]:
    return {point.number for point in points[-3:]}


async def test_retained_points_outlive_a_restart() -> None:
    files = make_files()
    store = await bound_store(files, retain=keep_three)
    for number in range(1, 6):
        await commit(store, number)
    await store.close()
    store = await open_store(files, retain=keep_three)
    assert [point.number for point in store.points] == [3, 4, 5]
    for number in (3, 4, 5):
        volume = store.open_point("log", number)
        assert volume is not None
        assert await read(volume, 0, 2 * 8192) == bytes([number]) * 2 * 8192
        assert store.point_bytes(number) > 0
    assert store.open_point("log", 2) is None
    assert store.open_point("none", 3) is None


async def test_points_dropped_at_a_start_are_gone_from_the_record_too() -> None:
    files = make_files()
    store = await bound_store(files, retain=keep_three)
    for number in range(1, 4):
        await commit(store, number)
    await store.close()
    await (await open_store(files)).close()
    assert files.list("/journal/orders") == ["data@3.journal", "log@3.journal"]
    store = await open_store(files, retain=keep_three)
    assert [point.number for point in store.points] == [3]


async def test_journals_of_a_commit_that_never_landed_are_removed() -> None:
    files = make_files()
    store = await bound_store(files)
    await commit(store, 1)
    await store.close()
    for name in ("data@2.journal", "log@2.journal", "data@0.journal.index"):
        files.open(f"/journal/orders/{name}", create=True).write(0, b"left over")
    files.open("/journal/orders/notes.txt", create=True)
    await open_store(files)
    assert files.list("/journal/orders") == [
        "data@1.journal",
        "log@1.journal",
        "notes.txt",
    ]


async def test_a_journal_that_is_gone_is_named() -> None:
    files = make_files()
    store = await bound_store(files)
    await commit(store, 1)
    await store.close()
    files.remove("/journal/orders/log@1.journal")
    with pytest.raises(CorruptStateError, match=r"log@1\.journal"):
        await open_store(files)


# -- errors ----------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["datasync", "sync_directory"])
async def test_after_a_failed_flush_nothing_is_acknowledged(operation: str) -> None:
    files = make_files()
    store = await bound_store(files)
    await commit(store, 1)
    await store.apply(0, [tracks_of(DATA, 5, filled(DATA, 9))])
    files.inject = lambda found, _: errno.EIO if found == operation else None
    with pytest.raises(StorageError):
        await store.commit(number=2, cycle_id=b"2" * 16, cut_ns=2, label=None)
    files.inject = None
    assert store.failed is not None
    for call in (
        store.flush,
        lambda: store.new_epoch(SENDER),
        lambda: store.begin_cycle(CycleName(9, b"9" * 16)),
        lambda: store.note(b"\x01" * 16),
        lambda: store.apply(0, [zero_tracks(0, 1)]),
        lambda: store.commit(number=2, cycle_id=b"2" * 16, cut_ns=2, label=None),
        lambda: store.advance_current(1, 99),
    ):
        with pytest.raises(StorageError):
            await call()
    assert [point.number for point in store.points] == [1]


@pytest.mark.parametrize("suffix", [".journal", ".img"])
async def test_without_room_the_point_stays_and_the_call_can_be_repeated(
    suffix: str,
) -> None:
    files = make_files()
    store = await bound_store(files)
    await commit(store, 1)
    records = [tracks_of(DATA, 0, filled(DATA, 9, 40)), zero_tracks(50, 3)]

    def full(operation: str, path: str) -> int | None:
        is_write = operation == "write" and path.endswith(suffix)
        return errno.ENOSPC if is_write else None

    volume = store.open_point("data")
    assert volume is not None
    files.inject = full
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            await store.apply(0, records)
        assert caught.value.is_out_of_space
        assert await read(volume, 0, 3 * 4096) == b"\x01" * 8192 + bytes(4096)
    files.inject = None
    assert store.failed is None
    await store.apply(0, records)
    await store.flush()
    assert await read(volume, 0, 3 * 4096) == b"\x01" * 8192 + bytes(4096)
    await store.commit(number=2, cycle_id=b"2" * 16, cut_ns=2, label=None)
    newest = store.open_point("data")
    assert newest is not None
    assert await read(newest, 0, 41 * 4096) == b"\x09" * (40 * 4096) + bytes(4096)


async def test_a_journal_is_whole_once_finished_though_its_last_append_failed() -> None:
    files = make_files()
    store = await bound_store(files, retain=keep_three)
    await commit(store, 1)
    files.inject = lambda operation, _: errno.ENOSPC if operation == "write" else None
    with pytest.raises(StorageError):
        await store.apply(0, [zero_tracks(0, 64)])
    files.inject = None
    await store.commit(number=2, cycle_id=b"2" * 16, cut_ns=2, label=None)
    files = files.after_kill()
    store = await open_store(files, retain=keep_three)
    volume = store.open_point("data", 1)
    assert volume is not None
    assert await read(volume, 0, 8192) == b"\x01" * 8192


async def test_a_commit_without_room_for_journals_can_be_repeated() -> None:
    files = make_files()
    store = await bound_store(files)
    await commit(store, 1)
    files.inject = lambda operation, _: errno.ENOSPC if operation == "create" else None
    with pytest.raises(StorageError):
        await commit(store, 2)
    assert [point.number for point in store.points] == [1]
    files.inject = None
    await commit(store, 2)
    assert [point.number for point in store.points] == [2]


# -- threads ---------------------------------------------------------------------------


class HeldThreads(InlineThreads):
    """Jobs wait until they are let go."""

    def __init__(self) -> None:
        self.is_holding = False
        self.waiting: list[Callable[[], None]] = []

    def submit(
        self,
        job: Callable[[], Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        start = super().submit
        if self.is_holding:
            self.waiting.append(lambda: start(job, done))
        else:
            start(job, done)

    def let_go(self) -> None:
        self.is_holding = False
        waiting, self.waiting = self.waiting, []
        for start in waiting:
            start()


async def test_a_cancelled_commit_still_takes_effect_and_can_be_waited_for() -> None:
    threads = HeldThreads()
    store = await GroupStore.open(make_files(), threads, SETTINGS)
    await store.bind(**BINDING)
    threads.is_holding = True
    task = asyncio.ensure_future(
        store.commit(number=1, cycle_id=b"1" * 16, cut_ns=1, label=None)
    )
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    settled = asyncio.ensure_future(store.settled())
    await asyncio.sleep(0)
    assert store.in_flight == 1
    assert not settled.done()
    threads.let_go()
    await settled
    assert store.in_flight == 0
    assert [point.number for point in store.points] == [1]


async def test_it_works_with_real_files_and_threads(tmp_path: Path) -> None:
    settings = StoreSettings(
        "orders",
        str(tmp_path / "state" / "orders"),
        str(tmp_path / "journal" / "orders"),
        {"data": str(tmp_path / "data.img"), "log": str(tmp_path / "log.img")},
    )
    threads = WorkerThreads("store", 3)
    store = await GroupStore.open(SystemFiles(), threads, settings)
    await store.bind(**BINDING)
    rng = random.Random(3)
    wanted = bytearray(DATA.size_bytes)
    first: bytes | None = None
    pinned = None
    for number in range(1, 8):
        for _ in range(5):
            track = rng.randrange(60)
            count = rng.randrange(1, 5)
            data = rng.randbytes(count * 4096) if rng.random() < 0.7 else None
            record = tracks_of(DATA, track, data) if data else zero_tracks(track, count)
            wanted[track * 4096 : (track + count) * 4096] = data or bytes(count * 4096)
            await store.apply(0, [record])
        await store.commit(
            number=number, cycle_id=bytes([number]) * 16, cut_ns=number, label=None
        )
        if number == 3:
            first, pinned = bytes(wanted), store.open_point("data")
    assert pinned is not None
    assert await read(pinned, 0, DATA.size_bytes) == first
    await store.close()
    store = await GroupStore.open(SystemFiles(), threads, settings)
    newest = store.open_point("data")
    assert newest is not None
    assert await read(newest, 0, DATA.size_bytes) == bytes(wanted)
    await store.close()
    threads.close()
