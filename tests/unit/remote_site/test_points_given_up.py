"""Hosts of a group that was taken over, whose journals have no room for its points."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from common.errors import StorageError
from common.service.clock import SystemClock
from common.service.config_remote import RemoteGroup
from remote_site.applier import apply_tracks
from remote_site.group import ReceivingGroup
from remote_site.group_disk import GroupDisk, StoreSettings
from remote_site.history import History
from remote_site.preserving_device import PreservingDevice
from remote_site.recovery_point import PointGoneError, PointImage
from remote_site.room_for_hosts import room_maker
from remote_site.store import GroupStore
from remote_site.store_state import KeptFork, Point
from remote_site.takeover_disk import finish, intend, roll_back
from remote_site.thinning import POINTS_GIVEN_UP_ALARM
from tests.support.remote_store_group import (
    BINDING,
    DATA,
    SETTINGS,
    filled,
    make_files,
    tracks_of,
)
from tests.support.simulated_files import InlineThreads, SimulatedFiles

POINTS = (1, 2, 3)
TRACK = DATA.track_bytes
HOST = b"h" * TRACK
JOURNALS = SETTINGS.journal_directory


def keep_all(points: Sequence[Point]) -> set[int]:
    return {point.number for point in points}


def opened(files: SimulatedFiles, settings: StoreSettings = SETTINGS) -> GroupDisk:
    disk = GroupDisk(files, settings, keep_all)
    disk.open()
    return disk


def receive_points(disk: GroupDisk) -> None:
    """Commit a point after the other; each has its number in tracks 0 to 3."""
    disk.bind(**BINDING)  # type: ignore[arg-type]
    for number in POINTS:
        tracks = tracks_of(DATA, 0, filled(DATA, number, 4))
        assert not apply_tracks(disk.volumes[0], [tracks])
        disk.commit_point(number, bytes([number]) * 16, number, None)


def take_over(disk: GroupDisk) -> None:
    intend(disk, None, b"N" * 16, 100)
    for _ in roll_back(disk.volumes, POINTS[-1]):
        pass
    finish(disk)


def taken_over(settings: StoreSettings = SETTINGS) -> tuple[SimulatedFiles, GroupDisk]:
    """Return a site that has three points and has gone on from the newest."""
    files = make_files()
    disk = opened(files, settings)
    receive_points(disk)
    take_over(disk)
    return files, disk


def journals(files: SimulatedFiles) -> set[str]:
    inject, files.inject = files.inject, None
    try:
        return {n for n in files.list(JOURNALS) if n.endswith(".journal")}
    finally:
        files.inject = inject


def leave_room_for(files: SimulatedFiles, points: int) -> None:
    """Have journals take no more until those of so many points are left."""
    volumes = 2

    def inject(operation: str, path: str) -> int | None:
        is_append = operation in {"write", "allocate"} and path.startswith(JOURNALS)
        if is_append and len(journals(files)) > volumes * points:
            return errno.ENOSPC
        return None

    files.inject = inject
    files.written_share = 0.0


def host_device(disk: GroupDisk) -> PreservingDevice:
    history = History(disk)
    return PreservingDevice(
        disk.volumes[0], make_room=lambda: history.make_room() is not None
    )


def check_points(disk: GroupDisk) -> set[int]:
    """Check that every point shows what it always showed; return their numbers."""
    for point in disk.points:
        image = PointImage(disk.volumes[0], point.number)
        assert image.read(0, 4 * TRACK) == filled(DATA, point.number, 4)
        assert image.read(4 * TRACK, 4 * TRACK) == bytes(4 * TRACK)
    return {point.number for point in disk.points}


@pytest.mark.parametrize("left", [2, 1, 0])
def test_so_many_points_go_as_a_host_s_write_needs_and_no_more(left: int) -> None:
    files, disk = taken_over()
    device = host_device(disk)
    leave_room_for(files, left)

    device.write(TRACK, HOST)
    device.write_zeroes(2 * TRACK, TRACK, punch=False)
    device.datasync()

    assert check_points(disk) == set(POINTS[len(POINTS) - left :])
    assert device.read(0, 4 * TRACK) == (
        filled(DATA, 3) + HOST + bytes(TRACK) + filled(DATA, 3)
    )
    assert len(journals(files)) == 2 * left
    disk.close()
    again = opened(files.after_kill())
    assert check_points(again) == set(POINTS[len(POINTS) - left :])
    again.close()


@pytest.mark.parametrize("left", [2, 0])
def test_a_power_cut_while_points_go_leaves_the_others_and_what_hosts_flushed(
    left: int,
) -> None:
    chance = random.Random(left)
    files, disk = taken_over()
    device = host_device(disk)
    device.write(0, HOST)
    device.datasync()
    leave_room_for(files, left)
    found: set[int] = set()

    def check(_operation: str, _path: str) -> None:
        for image in files.crash_images(chance, 3):
            there = opened(image)
            numbers = check_points(there)
            assert numbers >= set(POINTS[len(POINTS) - left :])
            found.add(len(numbers))
            assert there.volumes[0].device.read(0, TRACK) == HOST
            assert there.state is not None
            assert there.state.takeover is not None
            assert there.state.takeover.is_done, "hosts would wait"
            there.close()

    files.hook = check
    device.write(TRACK, HOST)
    files.hook = None
    assert found == set(range(left, len(POINTS) + 1))
    disk.close()


def test_a_device_that_fails_costs_no_point() -> None:
    files, disk = taken_over()
    device = host_device(disk)

    def inject(operation: str, path: str) -> int | None:
        return errno.EIO if operation == "write" and path.startswith(JOURNALS) else None

    files.inject = inject
    with pytest.raises(StorageError):
        device.write(TRACK, HOST)
    files.inject = None
    assert check_points(disk) == set(POINTS)
    assert device.read(TRACK, TRACK) == filled(DATA, 3)
    disk.close()


def _pins_are_hard(disk: GroupDisk) -> None:
    disk.pin(1)


def _holds_a_fork(disk: GroupDisk) -> None:
    disk.change(lambda state: replace(state, forks=(KeptFork(1, b"O" * 16, 1),)))


@pytest.mark.parametrize("hold", [_pins_are_hard, _holds_a_fork])
def test_what_has_to_stay_stays_and_the_host_is_told(
    hold: Callable[[GroupDisk], None],
) -> None:
    files, disk = taken_over(replace(SETTINGS, has_hard_pins=True))
    hold(disk)
    device = host_device(disk)
    leave_room_for(files, 2)
    with pytest.raises(StorageError) as told:
        device.write(TRACK, HOST)
    assert told.value.is_out_of_space
    files.inject = None
    assert check_points(disk) == set(POINTS)
    assert device.read(TRACK, TRACK) == filled(DATA, 3)
    disk.close()


def test_a_reader_of_a_point_that_goes_is_told() -> None:
    files, disk = taken_over()
    assert disk.pin(1) == 1
    reader = PointImage(disk.volumes[0], 1)
    device = host_device(disk)
    leave_room_for(files, 2)
    device.write(TRACK, HOST)
    with pytest.raises(PointGoneError):
        reader.read(0, TRACK)
    assert check_points(disk) == {2, 3}
    disk.close()


def test_nothing_goes_while_the_devices_are_on_their_way_back() -> None:
    files = make_files()
    disk = opened(files)
    receive_points(disk)
    intend(disk, 2, b"N" * 16, 100)
    disk.drop_before(3, (1, 2))
    assert {point.number for point in disk.state_points} == set(POINTS)
    for _ in roll_back(disk.volumes, 2):
        pass
    finish(disk)
    assert disk.volumes[0].device.read(0, TRACK) == filled(DATA, 2)
    assert check_points(disk) == set(POINTS)
    disk.close()


AMID_SECONDS = 0.2
"""Given to what must not end meanwhile; a slow machine makes it no less true."""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@contextmanager
def in_threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_who_waited_for_another_s_preserving_that_failed_preserves_itself() -> None:
    """Two hosts' writes wait for one turn; whoever gets it fails, for both."""
    files, disk = taken_over()
    device = host_device(disk)
    left = iter([errno.EIO])

    def inject(operation: str, path: str) -> int | None:
        if operation == "write" and path.startswith(JOURNALS):
            return next(left, None)
        return None

    files.inject = inject
    files.written_share = 0.0
    failed = 0
    with in_threads() as pool:
        with device._turn:
            writes = [pool.submit(device.write, n * TRACK, HOST) for n in (0, 2)]
            wait_for(lambda: len(device._wanted) == 2)
        for write in writes:
            with suppress(StorageError):
                write.result()
                continue
            failed += 1
    assert failed == 1
    assert check_points(disk) == set(POINTS)
    now = device.read(0, 4 * TRACK)
    assert now.count(HOST) == 1
    disk.close()


def test_nobody_appends_to_a_journal_that_goes_with_the_last_point() -> None:
    """A write of the other volume is amid its preserving when no point may stay."""
    files, disk = taken_over()
    history = History(disk)
    while len(disk.points) > 1:
        assert history.make_room()
    volume = disk.volumes[1]
    with in_threads() as pool, volume.lock:
        giving = pool.submit(history.make_room)
        # It may have got anywhere by now, but not past who appends.
        wait([giving], AMID_SECONDS)
        assert not giving.done()
        assert files.exists(volume.journals[-1].path)
        assert disk.state_points
    assert giving.result() == (3,)
    assert volume.journals == ()
    disk.close()


async def test_each_point_that_goes_is_said_with_where_to_make_room() -> None:
    files = make_files()
    config = RemoteGroup.model_validate(
        {
            "name": "orders",
            "peer": "amsterdam",
            "retain": ["all for 1h"],
            "journal": {"directory": "/journal"},
            "volume": [
                {"name": name, "device": path}
                for name, path in SETTINGS.devices.items()
            ],
        }
    )
    store = await GroupStore.open(files, InlineThreads(), SETTINGS, retain=keep_all)
    receive_points(store.disk)
    take_over(store.disk)
    group = ReceivingGroup(config, "b", store, SystemClock())
    make_room = room_maker(group)
    for number, left in ((1, 2), (2, 1), (3, 0)):
        assert await asyncio.to_thread(make_room)
        await asyncio.sleep(0)
        said, _ = group.alarms[POINTS_GIVEN_UP_ALARM]
        assert f"points {number} went, {left} are left" in said
        assert JOURNALS in said
    assert await asyncio.to_thread(make_room), "nothing is to be preserved any more"
    await group.close()
