"""Volumes that come to a group and leave it, whatever a crash leaves of it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from common.errors import (
    DeviceError,
    ProtocolError,
    RefusedError,
    StateMismatchError,
)
from common.replication.session_messages import VolumeOffer
from remote_site.enrolling import change_members
from remote_site.history import History
from remote_site.membership import ALWAYS, Change, Membership, change_to
from remote_site.retention import Drop, Merge
from remote_site.takeover_disk import intend, roll_back
from tests.support.remote_store_group import (
    DATA,
    LOG,
    OFFERS,
    SETTINGS,
    filled,
    make_files,
)
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


class Scenario:
    """Two volumes; a third joins over three cycles; then the second one leaves."""

    def __init__(self, files: SimulatedFiles) -> None:
        self.files = files
        self.wanted: Wanted = {}
        self.disk = opened(files, SETTINGS)
        self.disk.bind(b"g" * 16, b"L" * 16, "amsterdam", OFFERS)
        self.disk.settings = WITH_LATER
        for number in (1, 2):
            self.commit(number, {"data": range(4), "log": range(number, 3)})

    def commit(self, number: int, tracks: dict[str, range], *partial: str) -> None:
        before = dict(self.wanted.get(number - 1, {}))
        for offer in self.disk.state.current if self.disk.state else ():
            if offer.name not in partial:
                before.setdefault(offer.name, bytes(offer.size_bytes))
        cycle(self.disk, number, tracks, *partial)
        self.wanted[number] = contents(self.disk, number)
        assert set(self.wanted[number]) == {
            offer.name
            for offer in self.disk.state.current  # type: ignore[union-attr]
            if offer.name not in partial
        }

    def join(self) -> None:
        change_members(self.disk, (*OFFERS, LATER))

    def copy_partly(self) -> None:
        self.commit(3, {"data": range(2, 6), "later": range(3)}, "later")

    def complete_copy(self) -> None:
        self.commit(4, {"data": range(1), "later": range(3, 6)})
        assert self.wanted[4]["later"] == filled(LATER, 3, 3) + filled(LATER, 4, 3)

    def leave(self) -> None:
        change_members(self.disk, (DATA, LATER))

    def go_on(self) -> None:
        self.commit(5, {"data": range(6), "later": range(1)})
        self.commit(6, {"later": range(2, 4)})

    STEPS = (join, copy_partly, complete_copy, leave, go_on)

    def run(self, until: int = len(STEPS)) -> None:
        for step in self.STEPS[:until]:
            step(self)


OFFERED = {0: OFFERS, 1: (*OFFERS, LATER), 4: (DATA, LATER)}


@pytest.mark.parametrize("step", range(len(Scenario.STEPS)))
def test_each_point_has_its_volumes_whatever_a_crash_leaves(step: int) -> None:
    files = make_files()
    scenario = Scenario(files)
    scenario.run(step)
    rng = random.Random(step)
    images: list[SimulatedFiles] = []
    files.hook = lambda *_: images.extend(files.crash_images(rng, 3))
    Scenario.STEPS[step](scenario)
    files.hook = None
    scenario.disk.close()
    assert images
    for image in [*images, files.after_kill()]:
        again = opened(image)
        check(again, scenario.wanted)
        newest = again.points[-1].number
        # The sender says again what it has, and sends a cycle more.
        at_end = (DATA, LATER) if step >= 3 else (*OFFERS, LATER)
        change_members(again, at_end)
        check(again, scenario.wanted)
        rest = {"later": range(6), "data": range(1)}
        cycle(again, newest + 1, rest)
        found = contents(again, newest + 1)
        assert set(found) == {offer.name for offer in at_end}
        assert found["later"] == filled(LATER, newest + 1, 6)
        check(again, {**scenario.wanted, newest + 1: found})
        again.close()


def test_thinning_keeps_what_each_point_has() -> None:
    for into, victims in ((2, (3, 4)), (1, (2, 3)), (3, (4,)), (4, (5,)), (2, (3,))):
        files = make_files()
        scenario = Scenario(files)
        scenario.run()
        merge = History(scenario.disk).merge(Merge(into, victims))
        assert merge is not None
        while merge.step() is not None:
            pass
        assert merge.finish()
        assert [p.number for p in scenario.disk.points] == [
            number for number in range(1, 7) if number not in victims
        ]
        check(scenario.disk, scenario.wanted)
        scenario.disk.close()
        again = opened(files)
        check(again, scenario.wanted)
        again.close()


def test_a_removed_volume_is_forgotten_with_the_last_point_that_has_it() -> None:
    files = make_files()
    scenario = Scenario(files)
    scenario.run()
    disk = scenario.disk
    History(disk).drop(Drop(4))
    with pytest.raises(StateMismatchError, match="points up to 4 still have"):
        change_members(disk, (DATA, LATER, replace(LOG, volume_id=b"x" * 16)))
    check(disk, scenario.wanted)
    History(disk).drop(Drop(5))
    assert change_members(disk, (DATA, LATER)) == Change((), (), ("log",))
    check(disk, scenario.wanted)
    assert disk.state is not None
    assert disk.state.members == ()
    # Its name is free, its device untouched, and nobody holds it any more.
    device = files.open("/devices/log.img", lock=True)
    assert device.read(LOG.track_bytes, 3) != bytes(3)
    device.close()
    assert not [name for name in files.list("/journal/orders") if "log@" in name]
    disk.close()
    again = opened(files)
    check(again, scenario.wanted)
    again.close()


def test_a_removed_volume_needs_no_entry_in_the_config_and_its_device_is_locked() -> (
    None
):
    files = make_files()
    scenario = Scenario(files)
    scenario.run()
    scenario.disk.close()
    devices = {"data": "/devices/data.img", "later": LATER_PATH}
    again = opened(files, replace(SETTINGS, devices=devices))
    check(again, scenario.wanted)
    again.close()
    del devices["later"]
    with pytest.raises(StateMismatchError, match="later"):
        opened(files, replace(SETTINGS, devices=devices))


def test_a_takeover_goes_on_with_what_its_point_has() -> None:
    files = make_files()
    scenario = Scenario(files)
    scenario.run(2)  # the third volume is joining
    disk = scenario.disk
    intend(disk, None, b"m" * 16, 7)
    for _ in roll_back(disk.members, 3):
        pass
    assert [volume.offer.name for volume in disk.volumes] == ["data", "log"]
    check(disk, scenario.wanted)
    disk.close()
    again = opened(files)
    check(again, scenario.wanted)
    again.close()


def test_a_takeover_from_before_a_volume_came_is_refused() -> None:
    scenario = Scenario(make_files())
    scenario.run()
    with pytest.raises(RefusedError, match="of before volume later was added"):
        intend(scenario.disk, 3, b"m" * 16, 7)
    decided = intend(scenario.disk, 4, b"m" * 16, 7)
    with pytest.raises(RefusedError, match="taken over already, from point 4"):
        intend(scenario.disk, 5, b"o" * 16, 8)
    assert intend(scenario.disk, None, b"o" * 16, 8) == decided
    for _ in roll_back(scenario.disk.members, 4):
        pass
    held = {
        v.offer.name: v.device.read(0, v.offer.size_bytes)
        for v in scenario.disk.members
    }
    for name, data in held.items():
        assert data == scenario.wanted[4][name]
    check(scenario.disk, scenario.wanted)
    scenario.disk.close()


def test_what_cannot_be_opened_changes_nothing() -> None:
    files = make_files()
    scenario = Scenario(files)
    device = files.open(LATER_PATH, create=True)
    device.truncate(4096)
    device.write(0, b"x" * 4096)
    device.close()
    before = scenario.disk.state
    with pytest.raises(DeviceError):
        scenario.join()
    assert scenario.disk.state == before
    scenario.commit(3, {"data": range(1)})
    scenario.disk.close()


@pytest.mark.parametrize(
    ("offered", "members", "points", "expected"),
    [
        (OFFERS, (ALWAYS, ALWAYS), [1], Change((), (), ())),
        ((*OFFERS, LATER), (ALWAYS, ALWAYS), [1], Change(("later",), (), ())),
        ((DATA,), (ALWAYS, ALWAYS), [1], Change((), ("log",), ())),
        ((DATA,), (ALWAYS, ALWAYS), [], Change((), (), ("log",))),
        ((DATA,), (ALWAYS, Membership(None)), [1], Change((), (), ("log",))),
        ((DATA,), (ALWAYS, Membership(0, 1, "/d")), [1, 2], Change((), (), ())),
        ((DATA,), (ALWAYS, Membership(0, 1, "/d")), [2], Change((), (), ("log",))),
        (OFFERS, (ALWAYS, Membership(0, 1, "/d")), [2], Change(("log",), (), ("log",))),
        (OFFERS, (ALWAYS, Membership(0, 1, "/d")), [1], Change(("log",), (), ())),
        (OFFERS, (ALWAYS, Membership(None)), [1], Change((), (), ())),
    ],
)
def test_what_is_to_change(
    offered: tuple[VolumeOffer, ...],
    members: tuple[Membership, ...],
    points: list[int],
    expected: Change,
) -> None:
    assert change_to(offered, OFFERS, members, points) == expected


def test_who_joins_is_in_no_point_before_its_copy_is_complete() -> None:
    scenario = Scenario(make_files())
    scenario.run(2)
    assert scenario.disk.state is not None
    assert scenario.disk.state.memberships[2] == Membership(None)
    scenario.complete_copy()
    assert scenario.disk.state.memberships[2] == Membership(4)
    with pytest.raises(ProtocolError):
        scenario.disk.commit_point(4, b"other" + bytes(11), 4, None)
    scenario.disk.close()
