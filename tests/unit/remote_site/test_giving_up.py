"""A site that sent a group begins to receive it: its own data stay as a fork."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from common.errors import RefusedError
from common.replication.lineage import CycleName, SenderState, Verdict, judge
from common.storage.bitmap import Bitmap
from common.storage.geometry import Geometry
from remote_site.applier import apply_tracks
from remote_site.giving_up import (
    Beginning,
    begin_receiving,
    delete_fork,
    told_changes,
)
from remote_site.group_disk import GroupDisk
from remote_site.recovery_point import PointImage
from remote_site.store_state import (
    NO_LINEAGE,
    Point,
    StoreState,
    from_record,
    to_record,
)
from remote_site.takeover_disk import finish, intend, roll_back
from tests.support.remote_store_group import (
    OFFERS,
    SETTINGS,
    filled,
    make_files,
    tracks_of,
)
from tests.support.simulated_files import SimulatedFiles

COMMON = CycleName(7, b"c" * 16)
FORK = 12
CHANGED = {"data": ((3, 4), (60, 4)), "log": ((9, 1),)}
BEGINNING = Beginning(
    group_id=b"g" * 16,
    lineage=b"N" * 16,
    peer="dr",
    volumes=OFFERS,
    point=Point(FORK, b"f" * 16, 1_000, 1_000, "fork"),
    is_fork=True,
    own_lineage=b"O" * 16,
    common=COMMON,
    changed={},
)
TAKER = SenderState(b"g" * 16, b"N" * 16, newest=CycleName(9, b"n" * 16))


def beginning() -> Beginning:
    changed = {}
    for offer in OFFERS:
        geometry = Geometry(offer.size_bytes, offer.track_bytes, offer.track_bytes)
        changed[offer.name] = Bitmap(geometry.track_count)
        for first, count in CHANGED[offer.name]:
            changed[offer.name].set_range(first, count)
    return replace(BEGINNING, changed=changed)


def own(name: str) -> bytes:
    offer = next(each for each in OFFERS if each.name == name)
    return random.Random(name).randbytes(offer.size_bytes)


def old_primary() -> SimulatedFiles:
    """Return a disk with the devices of a site that has sent until now."""
    files = make_files()
    for name, path in SETTINGS.devices.items():
        device = files.open(path, create=True)
        device.write(0, own(name))
        device.datasync()
        device.close()
    files.sync_directory("/devices")
    return files


def opened(files: SimulatedFiles) -> GroupDisk:
    names = frozenset(offer.name for offer in OFFERS)
    disk = GroupDisk(files, replace(SETTINGS, accept_existing=names))
    disk.open()
    return disk


def check_fork(disk: GroupDisk) -> None:
    for volume in disk.volumes:
        image = PointImage(volume, FORK)
        assert image.read(0, volume.offer.size_bytes) == own(volume.offer.name)


def told(disk: GroupDisk) -> dict[str, tuple[tuple[int, int], ...]]:
    return {
        volume.offer.name: told_changes(disk, index, 0)[0]
        for index, volume in enumerate(disk.volumes)
    }


def receive(disk: GroupDisk, number: int) -> None:
    for volume in disk.volumes:
        data = filled(volume.offer, number, 2)
        assert not apply_tracks(volume, [tracks_of(volume.offer, 3, data)])
    disk.commit_point(number, bytes([number]) * 16, number, None)


def check_crash_image(image: SimulatedFiles) -> bool:
    """Check that a start finds all or nothing of it; tell which."""
    disk = opened(image)
    try:
        state = disk.state
        if state is None or state.lineage == NO_LINEAGE:
            # Nobody is welcome, and nothing has been overwritten.
            if state is not None:
                assert judge(TAKER, state.judged()) is Verdict.OTHER_LINEAGE
            for name, path in SETTINGS.devices.items():
                device = image.open(path, read_only=True)
                assert device.read(0, device.size()) == own(name)
                device.close()
            begin_receiving(disk, beginning())
            assert disk.state is not None
        assert disk.state is not None
        assert disk.state.judged().committed == COMMON
        assert told(disk) == CHANGED
        check_fork(disk)
        return state is disk.state
    finally:
        disk.close()


def test_a_crash_at_any_step_leaves_what_was_there_and_the_way_on() -> None:
    rng = random.Random(6)
    files = old_primary()
    disk = opened(files)
    found = {True: 0, False: 0}

    def check(_operation: str, _path: str) -> None:
        for image in files.crash_images(rng, 4):
            found[check_crash_image(image)] += 1

    files.hook = check
    begin_receiving(disk, beginning())
    check("end", "")
    files.hook = None

    assert found[False] > 20
    assert found[True] >= 1
    disk.close()


def test_the_fork_stays_what_it_was_while_cycles_come() -> None:
    files = old_primary()
    disk = opened(files)
    begin_receiving(disk, beginning())
    for number in (FORK + 1, FORK + 3):
        receive(disk, number)

    check_fork(disk)
    assert disk.state is not None
    assert disk.state.judged().committed == CycleName(FORK + 3, bytes([15]) * 16)
    assert told(disk) == {"data": (), "log": ()}
    disk.close()

    disk = opened(files.after_kill())
    check_fork(disk)
    disk.close()


def test_a_fork_goes_once_it_is_deleted_and_not_before_there_is_more() -> None:
    disk = opened(old_primary())
    begin_receiving(disk, beginning())
    with pytest.raises(RefusedError, match="nothing was received since"):
        delete_fork(disk, FORK)
    receive(disk, FORK + 1)
    with pytest.raises(RefusedError, match="has no fork 3; it has: 12"):
        delete_fork(disk, 3)

    delete_fork(disk, FORK)
    receive(disk, FORK + 2)

    assert [point.number for point in disk.points] == [FORK + 2]
    disk.close()


def test_nothing_told_where_nobody_knows_what_is_common() -> None:
    disk = opened(old_primary())
    begin_receiving(disk, replace(beginning(), common=None))

    assert disk.state is not None
    assert disk.state.judged().committed is None
    assert told(disk) == {"data": (), "log": ()}
    sender = replace(TAKER, committed=COMMON)
    assert judge(sender, disk.state.judged()) is Verdict.COMPARE_ALL
    check_fork(disk)
    disk.close()


def test_what_is_common_is_let_go_of_for_a_sender_that_knows_no_point() -> None:
    """It has met a copy of this site that knew of nothing, and compares everything."""
    files = old_primary()
    disk = opened(files)
    begin_receiving(disk, beginning())
    state = disk.state
    assert state is not None
    knows = replace(TAKER, committed=COMMON)
    stranger = replace(TAKER, lineage=b"S" * 16)
    assert state.met_by(knows) == state.met_by(stranger) == state
    assert judge(TAKER, state.judged()) is Verdict.PARTED
    assert judge(TAKER, state.met_by(TAKER).judged()) is Verdict.SEND_AGAIN

    disk.new_epoch(TAKER)
    disk.close()
    disk = opened(files.after_kill())

    assert disk.state is not None
    assert disk.state.judged().committed is None
    assert told(disk) == {"data": (), "log": ()}
    check_fork(disk)
    receive(disk, FORK + 1)
    assert disk.state.met_by(TAKER) == disk.state, "a point has come"
    disk.close()


@pytest.mark.parametrize("has_received", [False, True])
def test_what_a_site_gave_up_is_no_point_of_its_senders(has_received: bool) -> None:
    disk = opened(old_primary())
    begin_receiving(disk, beginning())
    if has_received:
        receive(disk, FORK + 1)
    intend(disk, None, b"T" * 16, 5)
    assert disk.state is not None
    assert disk.state.has_taken_common == has_received
    disk.close()


def test_a_point_handed_over_is_no_fork() -> None:
    disk = opened(old_primary())
    point = Point(COMMON.number, COMMON.cycle_id, 1_000, 1_000, None)
    begin_receiving(disk, replace(beginning(), point=point, is_fork=False))

    assert disk.state is not None
    assert disk.state.forks == ()
    sender = replace(TAKER, committed=COMMON)
    assert judge(sender, disk.state.judged()) is Verdict.SEND_AGAIN
    disk.close()


def test_what_was_taken_over_and_handed_back_untouched_is_received_again() -> None:
    files = old_primary()
    disk = opened(files)
    begin_receiving(disk, beginning())
    receive(disk, FORK + 1)
    intend(disk, None, b"P" * 16, 77)
    list(roll_back(disk.volumes, FORK + 1))
    finish(disk)
    newest = disk.points[-1]
    handed = replace(beginning(), lineage=b"Q" * 16, point=newest, is_fork=False)
    begin_receiving(disk, handed)

    common = CycleName(newest.number, newest.cycle_id)
    taker = SenderState(b"g" * 16, b"Q" * 16, newest=common, committed=common)
    for found in (disk, opened(files.after_kill())):
        assert found.state is not None
        assert found.state.takeover is None
        assert judge(taker, found.state.judged()) is Verdict.SEND_AGAIN
        assert [point.number for point in found.points] == [FORK, FORK + 1]
        check_fork(found)
    receive(disk, FORK + 2)
    check_fork(disk)
    disk.close()


def test_many_runs_are_told_in_several_answers() -> None:
    files = old_primary()
    disk = opened(files)
    begin_receiving(disk, beginning())

    assert told_changes(disk, 0, 3) == (((3, 4), (60, 4)), 64)
    assert told_changes(disk, 0, 5) == (((5, 2), (60, 4)), 64)
    assert told_changes(disk, 0, 64) == ((), 64)
    disk.close()


def test_the_record_says_it_all_and_earlier_releases_refuse_it() -> None:
    disk = opened(old_primary())
    begin_receiving(disk, beginning())
    state = disk.state
    assert isinstance(state, StoreState)

    assert to_record(state)["version"] == 4
    assert from_record(to_record(state), "path") == state
    disk.close()
