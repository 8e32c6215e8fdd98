"""What a site that gives up its own data keeps of them, and says that differs."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from common.errors import StorageError
from common.replication.lineage import CycleName, Fork, ToldFork
from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import BitmapFile
from common.storage.record import DurableRecord
from primary_site.group_state import GroupState, VolumeState, to_record
from primary_site.parting import Parted, read_parted
from remote_site.applier import apply_tracks
from remote_site.giving_up import Beginning, begin_receiving, told_changes
from remote_site.group_disk import GroupDisk, keep_newest
from remote_site.history import History
from remote_site.preserving_device import PreservingDevice
from remote_site.recovery_point import PointImage
from remote_site.retention import Drop
from remote_site.roles import beginning_of
from remote_site.store_state import Point
from remote_site.takeover_disk import finish, intend, roll_back
from tests.support.remote_store_group import (
    BINDING,
    DATA,
    OFFERS,
    SETTINGS,
    filled,
    make_files,
    tracks_of,
)
from tests.support.simulated_files import SimulatedFiles

OWN, OTHER = b"O" * 16, b"N" * 16
COMMON = CycleName(7, b"c" * 16)
FORK = Fork(OTHER, OWN, COMMON, 5, 9)
TRACK = DATA.track_bytes
TRACKS = DATA.size_bytes // TRACK
SAVED = VolumeState(b"d" * 16, DATA.size_bytes, TRACK, 16384, full=False)
STATE = GroupState(
    "orders",
    b"g" * 16,
    OWN,
    cycle_number=9,
    cycle_id=b"9" * 16,
    committed_number=7,
    committed_cycle_id=COMMON.cycle_id,
    committed_cut_ns=5,
    current_as_of_ns=5,
    clean=True,
    volumes={"data": SAVED},
    superseded=ToldFork(FORK, is_known=True),
    gives_up=True,
)


def parted(state: GroupState, *, is_known: bool = True) -> Parted:
    changed = {"data": Bitmap(TRACKS)} if is_known else None
    return Parted(state, (DATA,), changed)


# -- the beginning ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "newest", "number"),
    [
        (STATE, 0, 10),
        (STATE, 12, 13),
        (replace(STATE, cycle_number=0, committed_number=11), 0, 12),
        (replace(STATE, committed_number=None), 3, 10),
    ],
)
def test_a_fork_has_a_number_that_no_point_of_either_site_has(
    state: GroupState, newest: int, number: int
) -> None:
    beginning = beginning_of(parted(state), "dr", newest, 1)
    assert (beginning.point.number, beginning.is_fork) == (number, True)
    assert (beginning.lineage, beginning.own_lineage) == (OTHER, OWN)


def test_what_is_common_is_known_only_where_both_sites_know_it() -> None:
    doubted = replace(STATE, superseded=ToldFork(FORK, is_known=False))
    assert beginning_of(parted(STATE), "dr", 0, 1).common == COMMON
    assert beginning_of(parted(doubted), "dr", 0, 1).common is None
    assert beginning_of(parted(STATE, is_known=False), "dr", 0, 1).common is None


def test_what_was_handed_over_is_the_last_point_and_no_fork() -> None:
    handed = replace(STATE, handing=FORK)
    beginning = beginning_of(parted(handed), "dr", 0, 1)
    assert not beginning.is_fork
    assert beginning.point.number == COMMON.number
    assert beginning.point.cycle_id == COMMON.cycle_id
    # As `reconcile` records it of a remote put back that was asked in between.
    older: dict[str, Any] = {"committed_number": 4, "committed_cycle_id": b"4" * 16}
    forgot = {"committed_number": None, "committed_cycle_id": b""}
    for known in (older, forgot | {"committed_cut_ns": None, "current_as_of_ns": None}):
        met = beginning_of(parted(replace(handed, **known)), "dr", 0, 1)
        assert met.point == beginning.point, "the devices hold what was handed over"
    other = replace(STATE, handing=replace(FORK, lineage=b"x" * 16))
    assert beginning_of(parted(other), "dr", 0, 1).is_fork, "another agreement"


def left(state: GroupState) -> Parted:
    """Return what is read of a sender that left this record, and changed track 3."""
    files = SimulatedFiles()
    files.make_directory("/state/groups/orders")
    stored = BitmapFile.open(files, "/state/groups/orders/data.changed", TRACKS)
    with closing(stored):
        bits = Bitmap(TRACKS)
        bits.set(3)
        stored.save({0: bytes(bits.data[:4096])})
        stored.datasync()
    record = DurableRecord("/state/groups/orders/group.record", files)
    record.load()
    record.store(to_record(state))
    return read_parted(files, "/state", "orders")


def _unclean(state: GroupState) -> GroupState:
    return replace(state, clean=False)


def _with(**more: Any) -> Callable[[GroupState], GroupState]:
    return lambda state: state.with_volume("data", replace(SAVED, **more))


@pytest.mark.parametrize(
    "change",
    [
        _unclean,
        _with(full=True),
        _with(suspect=True),
    ],
)
def test_bitmaps_count_only_where_they_say_all_that_differs(
    change: Callable[[GroupState], GroupState],
) -> None:
    known = left(STATE).changed
    assert known is not None
    assert list(known["data"].runs()) == [(3, 1)]
    assert left(change(STATE)).changed is None


@pytest.mark.parametrize("over_bytes", [0, 512])
def test_what_a_volume_has_grown_by_has_changed_though_no_bitmap_says_so(
    over_bytes: int,
) -> None:
    """From its last track on, if that was cut short: it has become longer."""
    before = 5 * TRACK + over_bytes
    grown = _with(first_bytes=before, carried_from_bytes=before)
    known = left(grown(STATE)).changed
    assert known is not None
    assert list(known["data"].runs()) == [(3, 1), (5, TRACKS - 5)]


# -- the store -------------------------------------------------------------------------


def old_primary() -> SimulatedFiles:
    files = make_files()
    for offer in OFFERS:
        device = files.open(SETTINGS.devices[offer.name], create=True)
        device.truncate(offer.size_bytes)
        device.datasync()
        device.close()
    files.sync_directory("/devices")
    return files


def opened(files: SimulatedFiles) -> GroupDisk:
    names = frozenset(offer.name for offer in OFFERS)
    disk = GroupDisk(files, replace(SETTINGS, accept_existing=names))
    disk.open()
    return disk


def beginning(common: CycleName | None, *tracks: int) -> Beginning:
    changed = {}
    for offer in OFFERS:
        bits = changed[offer.name] = Bitmap(-(-offer.size_bytes // offer.track_bytes))
        for track in tracks:
            bits.set(track)
    return Beginning(
        group_id=b"g" * 16,
        lineage=OTHER,
        peer="dr",
        volumes=OFFERS,
        point=Point(12, b"f" * 16, 1_000, 1_000, "fork"),
        is_fork=True,
        own_lineage=OWN,
        common=common,
        changed=changed if common is not None else {},
    )


def test_what_an_earlier_time_has_told_counts_for_nothing() -> None:
    files = old_primary()
    files.make_directory(SETTINGS.state_directory)
    path = f"{SETTINGS.state_directory}/data.told"
    with closing(BitmapFile.open(files, path, TRACKS)) as stored:
        for _ in range(4):  # a later sequence than any that is written first
            stored.save({0: b"\xff" * (TRACKS // 8)})
            stored.datasync()
    disk = opened(files)
    begin_receiving(disk, beginning(COMMON, 5))
    assert told_changes(disk, 0, 0) == (((5, 1),), TRACKS)
    disk.close()


@pytest.mark.parametrize("is_there", [False, True])
def test_what_was_handed_over_is_as_current_as_its_sender_knew(
    *, is_there: bool
) -> None:
    """Whether the site had that very point before it sent, or has only sent."""
    handed = replace(
        beginning(None),
        point=Point(12, b"f" * 16, 1_000, 7_000, None),
        is_fork=False,
    )
    disk = opened(old_primary())
    if is_there:
        older = replace(handed.point, current_as_of_ns=2_000)
        begin_receiving(disk, replace(handed, point=older))
        take_over(disk, 12)
    begin_receiving(disk, handed)
    assert disk.state is not None
    assert disk.state.takeover is None
    for newest in (disk.state.points[-1], disk.points[-1]):
        assert (newest.cut_ns, newest.current_as_of_ns) == (1_000, 7_000)
    disk.close()


def test_what_has_begun_is_not_begun_again() -> None:
    disk = opened(old_primary())
    begin_receiving(disk, beginning(COMMON, 5))
    begun = disk.state
    again = beginning(COMMON)
    again = replace(again, point=replace(again.point, number=13, cycle_id=b"o" * 16))
    begin_receiving(disk, again)
    assert disk.state is begun
    assert told_changes(disk, 0, 0) == (((5, 1),), TRACKS)
    disk.close()


def test_where_nobody_knows_what_differs_nothing_is_written_of_it() -> None:
    files = old_primary()
    disk = opened(files)
    begin_receiving(disk, beginning(None))
    assert not files.exists(f"{SETTINGS.state_directory}/data.told")
    assert disk.state is not None
    assert disk.state.judged().committed is None
    disk.close()


@pytest.mark.parametrize("has_received", [False, True])
def test_a_fork_is_what_the_disk_has_after_a_flush_that_failed(
    has_received: bool,
) -> None:
    if has_received:
        disk = with_points(1, 2)
        take_over(disk, 2)
        files: Any = disk.files
        device: Any = PreservingDevice(disk.volumes[0])
    else:
        files = old_primary()
        disk = opened(files)
        device = files.open(SETTINGS.devices["data"])
    device.write(0, filled(DATA, 7))
    device.datasync()
    device.write(0, filled(DATA, 8))
    files.inject = lambda operation, _: errno.EIO if operation == "datasync" else None
    with pytest.raises(StorageError):
        device.datasync()
    files.inject = None
    assert device.read(0, TRACK) == filled(DATA, 8), "memory has it, the disk has not"
    begin_receiving(disk, beginning(COMMON, 0))
    shown = PointImage(disk.volumes[0], 12).read(0, TRACK)
    disk.close()
    again = opened(files)
    assert PointImage(again.volumes[0], 12).read(0, TRACK) == shown == filled(DATA, 7)
    again.close()


# -- after a takeover ------------------------------------------------------------------


def with_points(*numbers: int) -> GroupDisk:
    disk = GroupDisk(make_files(), SETTINGS, lambda p: {each.number for each in p})
    disk.open()
    disk.bind(**BINDING)  # type: ignore[arg-type]
    for number in numbers:
        tracks = tracks_of(DATA, 0, filled(DATA, number))
        assert not apply_tracks(disk.volumes[0], [tracks])
        disk.commit_point(number, bytes([number]) * 16, number, None)
    return disk


def take_over(disk: GroupDisk, number: int) -> None:
    intend(disk, number, b"N" * 16, 100)
    for _ in roll_back(disk.volumes, number):
        pass
    finish(disk)


def test_the_point_that_was_taken_over_from_stays_whatever_rules_say() -> None:
    disk = with_points(1, 2, 3)
    take_over(disk, 2)
    disk.retain = disk.settled = keep_newest
    step = History(disk).plan()
    assert step == Drop(2)
    assert PointImage(disk.volumes[0], 2).read(0, TRACK) == filled(DATA, 2)
    disk.close()


def test_what_a_volume_has_grown_by_needs_no_preserving() -> None:
    """A host's write begins within the newest point, and ends beyond it."""
    disk = with_points(1)
    disk.grow(0, DATA.size_bytes, DATA.size_bytes + 4 * TRACK)
    take_over(disk, 1)
    device = PreservingDevice(disk.volumes[0])
    data = b"h" * (3 * TRACK)
    device.write(DATA.size_bytes - TRACK, data)
    device.write(DATA.size_bytes + 2 * TRACK, data[:TRACK])
    assert device.read(DATA.size_bytes - TRACK, 4 * TRACK) == data + data[:TRACK]
    image = PointImage(disk.volumes[0], 1)
    assert image.geometry.size_bytes == DATA.size_bytes
    assert image.read(DATA.size_bytes - TRACK, TRACK) == bytes(TRACK)
    disk.close()
