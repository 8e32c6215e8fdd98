"""Volumes that came and went while a site sent its group, once it gives that up.

The store has points of before. A crash at any write: they stay what they were, and the
point that the site gives up is what its devices hold, of the volumes that it sent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from common.errors import RefusedError
from common.ports import Files
from common.replication.lineage import CycleName
from common.replication.session_messages import VolumeOffer
from common.service.config_primary import PrimaryVolume
from common.storage.bitmap import Bitmap
from remote_site.enrolling import change_members
from remote_site.giving_up import Beginning, begin_receiving
from remote_site.group_disk import GroupDisk
from remote_site.history import History
from remote_site.kept_volumes import KeptVolumes, note_leaving
from remote_site.retention import Drop
from remote_site.sending import preserving_files
from remote_site.store_state import Point
from remote_site.takeover_disk import finish, intend, roll_back
from tests.support.remote_store_group import DATA, LOG, OFFERS, make_files
from tests.support.remote_store_members import (
    LATER,
    LATER_PATH,
    WITH_LATER,
    Wanted,
    check,
    contents,
    cycle,
    opened,
)
from tests.support.simulated_files import SimulatedFiles

OWN, OTHER = b"O" * 16, b"N" * 16
GIVEN_UP = 9
"""The number of the point that the site gives up."""


class Circle:
    """Taken over at point 2; a volume comes, another leaves; the group is given up."""

    def __init__(self) -> None:
        self.files = make_files()
        self.wanted: Wanted = {}
        self.disk = opened(self.files)
        self.disk.bind(b"g" * 16, b"L" * 16, "amsterdam", OFFERS)
        for number in (1, 2):
            cycle(self.disk, number, {"data": range(4), "log": range(number, 3)})
            self.wanted[number] = contents(self.disk, number)
        intend(self.disk, None, OWN, 7)
        list(roll_back(self.disk.members, 2))
        finish(self.disk)
        self.sent: tuple[VolumeOffer, ...] = OFFERS
        self.held = dict(self.wanted[2])
        self.serve()

    def serve(self) -> None:
        """Open the sending role's devices, as a start does."""
        self.host: Files = preserving_files(self.files, self.disk)

    def write(self, name: str, first: int, value: int, count: int = 2) -> None:
        path = self.disk.settings.devices[name]
        offer = next(each for each in self.sent if each.name == name)
        offset = first * offer.track_bytes
        data = bytes([value]) * (count * offer.track_bytes)
        device = self.host.open(path)
        device.write(offset, data)
        device.datasync()
        device.close()
        held = self.held[name]
        self.held[name] = held[:offset] + data + held[offset + len(data) :]

    def come(self) -> None:
        device = self.host.open(LATER_PATH, create=True)
        device.truncate(LATER.size_bytes)
        device.datasync()
        device.close()
        self.host.sync_directory("/devices")
        self.held["later"] = bytes(LATER.size_bytes)
        self.sent = (*self.sent, LATER)
        self.write("later", 1, 21)

    def hosts(self) -> None:
        for offer in self.sent:
            self.write(offer.name, 0, 31)

    def note(self) -> None:
        note_leaving(self.disk, "log")

    def hosts_beside_it(self) -> None:
        """The sending role has not recorded yet that the volume has left."""
        self.write("log", 3, 41)
        self.write("data", 9, 41)

    def leave(self) -> None:
        self.sent = tuple(offer for offer in self.sent if offer is not LOG)
        self.held.pop("log")
        self.write("data", 12, 51)

    def give_up(self) -> None:
        self.wanted[GIVEN_UP] = dict(self.held)
        begin(self.disk, self.sent)

    def receive(self) -> None:
        """The other site sends all it has, and has another volume less."""
        receive(self.disk)
        self.wanted[GIVEN_UP + 1] = contents(self.disk, GIVEN_UP + 1)

    STEPS = (come, hosts, note, hosts_beside_it, leave, hosts, give_up, receive)


def begin(disk: GroupDisk, sent: Sequence[VolumeOffer]) -> None:
    common = CycleName(2, bytes([2]) * 16)
    changed = {}
    for offer in sent:
        changed[offer.name] = Bitmap(-(-offer.size_bytes // offer.track_bytes))
        changed[offer.name].set(1)
    point = Point(GIVEN_UP, b"fork" * 4, 9, 9, None)
    begin_receiving(
        disk,
        Beginning(
            b"g" * 16,
            OTHER,
            "amsterdam",
            tuple(sent),
            point,
            True,
            OWN,
            common,
            changed,
        ),
    )


def receive(disk: GroupDisk) -> None:
    assert disk.state is not None
    current = disk.state.current
    change_members(disk, [offer for offer in current if offer.name != "data"])
    left = [offer for offer in current if offer.name != "data"]
    tracks = {o.name: range(-(-o.size_bytes // o.track_bytes) - 1) for o in left}
    cycle(disk, GIVEN_UP + 1, tracks)


def begun_again(image: SimulatedFiles, sent: tuple[VolumeOffer, ...]) -> GroupDisk:
    """Go on from a crash as a start does: the site sends, and gives up once more."""
    disk = opened(image)
    state = disk.state
    assert state is not None
    if state.takeover is None:
        return disk
    host = preserving_files(image, disk)
    for offer in sent:  # a host of the start writes to all there is
        device = host.open(disk.settings.devices[offer.name])
        device.write(2 * offer.track_bytes, b"!" * offer.track_bytes)
        device.close()
    begin(disk, sent)
    return disk


def run(
    circle: Circle, steps: int
) -> tuple[list[SimulatedFiles], set[tuple[VolumeOffer, ...]]]:
    """Take so many steps, and one more; return what crashes leave of that.

    And what volumes the sending role may have recorded by then.
    """
    for step in Circle.STEPS[:steps]:
        step(circle)
    recorded = {circle.sent}
    rng = random.Random(steps)
    images: list[SimulatedFiles] = []
    circle.files.hook = lambda *_: images.extend(circle.files.crash_images(rng, 3))
    Circle.STEPS[steps](circle)
    circle.files.hook = None
    if Circle.STEPS[steps] is Circle.leave:  # what comes is recorded after its device
        recorded.add(circle.sent)
    return [*images, circle.files.after_kill()], recorded


@pytest.mark.parametrize("step", range(len(Circle.STEPS)))
def test_no_crash_changes_a_point_as_volumes_come_and_go_at_who_sends(
    step: int,
) -> None:
    circle = Circle()
    seen = 0
    images, recorded = run(circle, step)
    for image in images:
        for sent in recorded:
            files = image.after_kill()
            disk = begun_again(files, sent)
            assert disk.state is not None
            points = {point.number for point in disk.points}
            assert {1, 2, GIVEN_UP} <= points
            before = {n: c for n, c in circle.wanted.items() if n in (1, 2)}
            found = {number: contents(disk, number) for number in points}
            assert {n: found[n] for n in before} == before
            if step < Circle.STEPS.index(Circle.give_up):
                assert set(found[GIVEN_UP]) == {offer.name for offer in sent}
            if GIVEN_UP + 1 not in points:
                receive(disk)
                found[GIVEN_UP + 1] = contents(disk, GIVEN_UP + 1)
            check(disk, found)
            disk.close()
            again = opened(files)
            check(again, found)
            again.close()
            seen += 1
    assert seen
    circle.disk.close()


def test_what_is_given_up_is_what_the_devices_hold() -> None:
    circle = Circle()
    for step in Circle.STEPS:
        step(circle)
    check(circle.disk, circle.wanted)
    assert set(circle.wanted[GIVEN_UP]) == {"data", "later"}
    assert set(circle.wanted[GIVEN_UP + 1]) == {"later"}
    circle.disk.close()
    again = opened(circle.files)
    check(again, circle.wanted)
    again.close()


def test_a_removal_that_a_crash_cut_short_has_not_happened() -> None:
    circle = Circle()
    circle.hosts()
    circle.note()
    circle.disk.close()
    circle.disk = opened(circle.files)
    circle.serve()
    circle.hosts_beside_it()
    circle.give_up()
    check(circle.disk, circle.wanted)
    assert set(circle.wanted[GIVEN_UP]) == {"data", "log"}
    circle.disk.close()


def test_names_and_devices_of_points_are_not_given_to_a_new_volume() -> None:
    circle = Circle()
    kept = KeptVolumes(circle.disk)
    log = PrimaryVolume(name="log", device="/devices/other.img")
    elsewhere = PrimaryVolume(name="other", device="/devices/log.img")
    kept.check_free(log)  # who has a volume of that name says so itself
    kept.leaves("log")
    kept.leaves("log")
    kept.leaves("later")  # came since: no point has it
    with pytest.raises(RefusedError, match="points up to 2 still have"):
        kept.check_free(log)
    with pytest.raises(RefusedError, match=r"log\.img is the device of orders/log"):
        kept.check_free(elsewhere)
    kept.check_free(PrimaryVolume(name="other", device="/devices/other.img"))
    History(circle.disk).drop(Drop(3))
    circle.disk.close()
    devices = {"data": "/devices/data.img"}
    again = opened(circle.files, replace(WITH_LATER, devices=devices))
    free = KeptVolumes(again)
    free.check_free(log)
    free.check_free(elsewhere)
    assert again.state is not None
    assert again.state.volumes == (DATA,)
    again.close()
