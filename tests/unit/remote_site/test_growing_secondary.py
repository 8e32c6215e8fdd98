"""A secondary volume that grows: points keep their sizes, whatever a crash leaves."""

from __future__ import annotations

import errno
import random
from dataclasses import replace

import pytest

from common.errors import DeviceError, StateMismatchError
from common.replication.lineage import CycleName
from common.service.config_primary import PrimaryGroup
from common.storage.bitmap import Bitmap
from common.storage.extents import DIRTY
from common.storage.geometry import SECTOR_BYTES
from primary_site.opening import open_group
from primary_site.parting import read_parted
from primary_site.taking_over import prepare_sending
from remote_site.applier import apply_tracks
from remote_site.giving_up import Beginning, begin_receiving, told_changes
from remote_site.group_disk import GroupDisk
from remote_site.preserving_device import PreservingDevice
from remote_site.recovery_point import PointImage
from remote_site.sending import preserving_files, sending_start
from remote_site.store_state import Point
from remote_site.takeover_disk import finish, intend, roll_back
from tests.support.remote_store_group import (
    BINDING,
    DATA,
    LOG,
    SETTINGS,
    filled,
    make_files,
    tracks_of,
    zero_tracks,
)
from tests.support.simulated_files import SimulatedFiles

OLD = LOG.size_bytes
NEW = OLD + 3 * LOG.track_bytes + 512
LAST = OLD // LOG.track_bytes
"""The old last track, which is cut."""


SENDING = PrimaryGroup.model_validate(
    {
        "name": "orders",
        "link": {
            "remotes": ["a:1"],
            "peer": "a",
            "allow_plaintext_replication": True,
        },
        "flashcopy": {"directory": "/flashcopy"},
        "volume": [
            {"name": name, "device": path} for name, path in SETTINGS.devices.items()
        ],
    }
)


def keep_all(points: object) -> set[int]:
    assert isinstance(points, tuple)
    return {point.number for point in points if isinstance(point, Point)}


def opened(files: SimulatedFiles) -> GroupDisk:
    disk = GroupDisk(files, SETTINGS, keep_all)
    disk.open()
    return disk


def content(disk: GroupDisk, number: int) -> bytes:
    image = PointImage(disk.volumes[1], number)
    return bytes(image.read(0, image.geometry.size_bytes))


def last_track(value: int) -> bytes:
    return bytes([value]) * (OLD % LOG.track_bytes)


def bound(files: SimulatedFiles) -> tuple[GroupDisk, dict[int, bytes]]:
    """Return a disk with two points, and what the second volume holds at each."""
    disk = opened(files)
    disk.bind(**BINDING)
    wanted = {}
    for number in (1, 2):
        volume = disk.volumes[1]
        apply_tracks(volume, [tracks_of(LOG, number, filled(LOG, number, 2))])
        apply_tracks(volume, [tracks_of(LOG, LAST, last_track(number))])
        disk.commit_point(number, bytes([number]) * 16, number, None)
        wanted[number] = content(disk, number)
    return disk, wanted


def test_points_keep_their_sizes_over_a_crash_at_any_step() -> None:
    files = make_files()
    disk, wanted = bound(files)
    images: list[SimulatedFiles] = []
    rng = random.Random(3)
    files.hook = lambda *_: images.extend(files.crash_images(rng, 4))
    disk.grow(1, OLD, NEW)
    grown = disk.volumes[1].offer
    apply_tracks(
        disk.volumes[1],
        [
            tracks_of(grown, LAST, filled(LOG, 8, 3)),  # longer now, and beyond
            zero_tracks(0, 2),
        ],
    )
    disk.commit_point(3, b"3" * 16, 3, None)
    wanted[3] = content(disk, 3)
    assert len(wanted[3]) == NEW
    assert wanted[3][LAST * LOG.track_bytes :][: LOG.track_bytes] == filled(LOG, 8)
    sizes = set()
    for image in [*images, files.after_kill()]:
        again = opened(image)
        sizes.add(again.volumes[1].geometry.size_bytes)
        for point in again.points:
            assert content(again, point.number) == wanted[point.number]
        again.grow(1, OLD, NEW)  # the sender says it again
        assert again.volumes[1].geometry.size_bytes == NEW
        for point in again.points:
            assert content(again, point.number) == wanted[point.number]
        again.close()
    assert sizes == {OLD, NEW}
    disk.close()


def test_the_new_area_is_told_to_have_changed_and_older_points_do_not_have_it() -> None:
    disk, wanted = bound(make_files())
    older = PointImage(disk.volumes[1], 2, 1)  # opened before, read after
    disk.grow(1, OLD, NEW)
    apply_tracks(disk.volumes[1], [tracks_of(LOG, LAST + 1, filled(LOG, 9))])
    disk.commit_point(3, b"3" * 16, 3, None)
    newest = PointImage(disk.volumes[1], 3, 2)
    told = newest.changed(0, NEW)
    unchanged = LAST * LOG.track_bytes
    assert told == [(unchanged, 0), (NEW - unchanged, DIRTY)]
    assert older.read(0, OLD) == wanted[2]
    assert sum(size for size, _ in older.status(0, OLD)) == OLD
    # It has changed from point 1, and by no more than that.
    assert older.changed(0, OLD)[-1] == (OLD % LOG.track_bytes, DIRTY)
    disk.close()


@pytest.mark.parametrize(
    ("from_bytes", "size_bytes"), [(OLD + 512, NEW), (512, OLD - 512), (NEW, NEW + 512)]
)
def test_a_volume_that_never_had_this_size_is_another_one(
    from_bytes: int, size_bytes: int
) -> None:
    disk, wanted = bound(make_files())
    with pytest.raises(StateMismatchError, match="has grown from"):
        disk.grow(1, from_bytes, size_bytes)
    assert content(disk, 2) == wanted[2]
    disk.close()


def test_a_device_that_can_t_grow_is_said_and_goes_on_as_it_was() -> None:
    files = make_files()
    disk, wanted = bound(files)
    files.inject = lambda operation, path: (
        errno.EFBIG if (operation, path) == ("truncate", "/devices/log.img") else None
    )
    with pytest.raises(DeviceError, match="the remote's device can't"):
        disk.grow(1, OLD, NEW)
    files.inject = None
    apply_tracks(disk.volumes[1], [tracks_of(LOG, LAST, last_track(5))])
    disk.commit_point(3, b"3" * 16, 3, None)
    assert content(disk, 2) == wanted[2]
    disk.close()
    again = opened(files.after_kill())
    assert len(content(again, 3)) == OLD
    again.grow(1, OLD, NEW)
    assert again.volumes[1].geometry.size_bytes == NEW
    again.close()


@pytest.mark.parametrize("is_extended", [False, True])
def test_a_growth_that_was_cut_short_is_finished_by_who_takes_over(
    is_extended: bool,
) -> None:
    files = make_files()
    disk, wanted = bound(files)
    disk.change(lambda state: state.will_grow(1, NEW))
    if is_extended:
        disk.volumes[1].device.truncate(NEW)
        disk.volumes[1].device.datasync()
    disk.close()

    disk = opened(files)  # as a start after a kill
    intend(disk, None, b"N" * 16, 77)
    list(roll_back(disk.volumes, 2))
    prepare_sending(files, "/sending", sending_start(disk, SENDING))
    finish(disk)
    group = open_group(
        preserving_files(files, disk), "/sending", SENDING, "remote.toml"
    )

    size_bytes = NEW if is_extended else OLD
    assert group.volumes[1].geometry.size_bytes == size_bytes
    told = group.state.volumes["log"].first_bytes
    assert told == SECTOR_BYTES, "an older copy has any size up to that of now"
    parted = read_parted(files, "/sending", "orders")
    begin_receiving(disk, replace(giving_up(), volumes=parted.volumes))
    wanted[FORK] = wanted[2] + bytes(size_bytes - OLD)
    check_sizes(disk, wanted)
    disk.close()


# -- a site that has sent, and receives again ------------------------------------------

GROWN = replace(LOG, size_bytes=NEW)
FORK = 9


def sent_and_grown(files: SimulatedFiles) -> tuple[GroupDisk, dict[int, bytes]]:
    """Return a disk that was taken over, and grew by what hosts use since."""
    disk, wanted = bound(files)
    intend(disk, None, b"N" * 16, 77)
    list(roll_back(disk.volumes, 2))
    finish(disk)
    device = PreservingDevice(disk.volumes[1])
    device.truncate(NEW)
    device.datasync()
    device.write(OLD - 512, bytes([7]) * (NEW - OLD + 512))  # over the old end
    device.datasync()
    wanted[FORK] = device.read(0, NEW)
    return disk, wanted


def giving_up() -> Beginning:
    """Return what such a site's sending role has to say; the grown end differs."""
    tracks = -(-NEW // LOG.track_bytes)
    changed = {"data": Bitmap(DATA.size_bytes // DATA.track_bytes)}
    changed["log"] = Bitmap(tracks)
    changed["log"].set_range(LAST, tracks - LAST)
    return Beginning(
        group_id=b"g" * 16,
        lineage=b"P" * 16,
        peer="amsterdam",
        volumes=(DATA, GROWN),
        point=Point(FORK, b"f" * 16, 9, 9, "fork"),
        is_fork=True,
        own_lineage=b"N" * 16,
        common=CycleName(2, b"2" * 16),
        changed=changed,
    )


def check_sizes(disk: GroupDisk, wanted: dict[int, bytes]) -> None:
    for point in disk.points:
        assert content(disk, point.number) == wanted[point.number]
        assert disk.state is not None
        assert disk.state.size_at(point, 1) == len(wanted[point.number])


def test_a_site_that_grew_while_it_sent_receives_into_its_new_size() -> None:
    files = make_files()
    disk, wanted = sent_and_grown(files)
    begin_receiving(disk, giving_up())

    check_sizes(disk, wanted)
    assert told_changes(disk, 1, 0) == (((LAST, 4),), LAST + 4)
    apply_tracks(disk.volumes[1], [tracks_of(GROWN, LAST, filled(LOG, 8, 3))])
    disk.commit_point(FORK + 1, b"+" * 16, 10, None)
    wanted[FORK + 1] = content(disk, FORK + 1)
    assert len(wanted[FORK + 1]) == NEW
    check_sizes(disk, wanted)
    disk.grow(1, OLD, NEW)  # as the sender says, which began with the old size
    disk.grow(1, OLD, NEW + 512)
    assert disk.volumes[1].geometry.size_bytes == NEW + 512
    check_sizes(disk, wanted)
    disk.close()

    disk = opened(files.after_kill())
    check_sizes(disk, wanted)
    disk.close()


def test_a_new_size_at_a_change_of_roles_over_a_crash_at_any_step() -> None:
    files = make_files()
    disk, wanted = sent_and_grown(files)
    images: list[SimulatedFiles] = []
    rng = random.Random(4)
    files.hook = lambda *_: images.extend(files.crash_images(rng, 4))
    begin_receiving(disk, giving_up())
    files.hook = None
    sizes = set()
    for image in [*images, files.after_kill()]:
        again = opened(image)
        sizes.add(again.volumes[1].geometry.size_bytes)
        check_sizes(again, wanted)
        begin_receiving(again, giving_up())  # as a start does, if it was not done
        assert again.volumes[1].offer == GROWN
        assert [point.number for point in again.points] == [1, 2, FORK]
        check_sizes(again, wanted)
        again.close()
    assert sizes == {OLD, NEW}
    disk.close()


def test_a_pinned_point_keeps_its_size_where_a_site_begins_to_receive() -> None:
    disk, wanted = sent_and_grown(make_files())
    disk.retain = lambda points: {points[-1].number}
    assert disk.pin(1) == 1
    begin_receiving(disk, giving_up())

    assert [point.number for point in disk.points] == [1, 2, FORK]
    assert disk.state is not None
    assert [point.number for point in disk.state.points] == [FORK]
    check_sizes(disk, wanted)
    disk.close()


def test_an_intent_that_was_outgrown_while_sent_from_here_is_over() -> None:
    disk, wanted = bound(make_files())
    disk.change(lambda state: state.will_grow(1, NEW - 512).will_grow(0, 1 << 20))
    intend(disk, None, b"N" * 16, 77)
    list(roll_back(disk.volumes, 2))
    finish(disk)
    disk.volumes[1].device.truncate(NEW)
    begin_receiving(disk, giving_up())

    assert disk.state is not None
    assert disk.state.growing == (1 << 20, 0)
    wanted[FORK] = wanted[2] + bytes(NEW - OLD)
    check_sizes(disk, wanted)
    disk.close()
