"""Crash a site that gives up what it sent, at every write and flush: recover, go on.

An old primary without a store, or a remote that had taken over, begins to receive: with
a fork, or by agreement at the point that it handed over. From then on cycles of the
other site come in, and at last the fork is deleted. Until the record of the beginning
is durable every image has to begin again, by the product's own reading of the sender's
record; afterwards the fork is what the devices held, until somebody deletes it, and the
other site is told of every track that differs until a point has come.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from common.replication.lineage import CycleName, Fork, ToldFork
from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import BitmapFile
from common.storage.record import DurableRecord
from primary_site.group_state import GroupState, VolumeState, to_record
from primary_site.parting import read_parted
from remote_site.giving_up import begin_receiving, delete_fork, told_changes
from remote_site.group_disk import GroupDisk
from remote_site.preserving_device import PreservingDevice
from remote_site.roles import beginning_of
from remote_site.store_state import KeptFork, Point
from remote_site.takeover_disk import finish, intend, roll_back
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import ViolationError
from tests.support.remote_store_explorer import (
    GROUP_ID,
    LINEAGE,
    OFFERS,
    PEER,
    SETTINGS,
    Cycle,
    Images,
    Lie,
    RemoteExploration,
)

SENT = "/state/sent"
"""Where the sending role kept its state."""

OWN_LINEAGE, OTHER_LINEAGE = b"O" * 16, b"N" * 16
CYCLES_AFTER = 2
GROWN_SHARE = 0.5
"""Of remotes that had taken over: a volume grew before they gave it up."""


class FailbackExploration(RemoteExploration):
    """What was sent is given up; cycles come in; the fork is deleted."""

    COMPONENT = "failback"
    SETTINGS = replace(SETTINGS, accept_existing=frozenset(SETTINGS.devices))
    is_sent = is_begun = is_deleting = is_deleted = False

    def __init__(
        self, seed: int, *, images_per_step: int = 12, lie: Lie | None = None
    ) -> None:
        super().__init__(seed, images_per_step=images_per_step, lie=lie, error_odds=0.0)
        self.retained = self.rng.choice((1, 2, 3))
        self.was_remote = self.rng.random() < 0.5
        self.is_agreed = self.rng.random() < 0.3
        self.is_known = self.rng.random() < 0.8
        """The other site has met the newest state of this one."""
        # By chance of its own: other seeds do what they did before volumes grew.
        self.has_grown = random.Random(seed ^ 0x6120).random() < GROWN_SHARE
        self.common = Cycle(b"common" + bytes(10), ())
        self.common_number = 0
        self.number = 0
        """Of the point that the devices are as they are given up."""

    # -- before ------------------------------------------------------------------------

    def explore(self) -> None:
        self._is_looking = True  # others look at this part
        if self.was_remote:
            self._took_over()
        else:
            self._sent_from_the_first()
        self._write_sender()
        self._restart_store()
        self.is_sent = True
        self._is_looking = False
        self._give_up()
        for _ in range(CYCLES_AFTER):
            self._receive()
        self._delete()
        self._receive()
        self.at_step("end", "")

    def _took_over(self) -> None:
        """A store with points; its newest was taken, and hosts have written since."""
        self.store.bind(GROUP_ID, LINEAGE, PEER, OFFERS)
        self.is_bound = True
        self._new_epoch()
        for number in (1, 2):
            self._mutate()
            self._note(number)
            self._synchronise(number)
        store = self.store
        intend(store, None, OWN_LINEAGE, 77)
        list(roll_back(store.volumes, 2))
        finish(store)
        if self.has_grown:
            self._grow()
        self._host_writes(partial(_preserving, store))
        self._sent_a_cycle(3)
        if not self.is_agreed:
            self._host_writes(partial(_preserving, store))

    def _grow(self) -> None:
        """As `primary_site.growing` leaves a device: long enough before a record says
        so. The last track of before becomes longer."""
        index = 1
        offer = self.offers[index]
        grown = replace(offer, size_bytes=offer.size_bytes + offer.track_bytes + 512)
        device = self.store.volumes[index].device
        device.truncate(grown.size_bytes)
        device.datasync()
        self.current[index].extend(bytes(grown.size_bytes - offer.size_bytes))
        self.offers = (*self.offers[:index], grown, *self.offers[index + 1 :])

    def _sent_from_the_first(self) -> None:
        for offer in OFFERS:
            path = SETTINGS.devices[offer.name]
            device = self.disk.open(path, create=True)
            device.truncate(offer.size_bytes)
            device.datasync()
        self.disk.sync_directory("/devices")
        self._host_writes(self._plain)
        self._sent_a_cycle(3)
        if not self.is_agreed:
            self._host_writes(self._plain)

    def _plain(self, index: int, offset: int, data: bytes) -> None:
        path = SETTINGS.devices[self.offers[index].name]
        device = self.disk.open(path)
        device.write(offset, data)
        device.datasync()
        device.close()

    def _host_writes(self, write: object) -> None:
        for index, offer in enumerate(self.offers):
            for offset, data in self._random_write(offer):
                self.current[index][offset : offset + len(data)] = data
                write(index, offset, data)  # type: ignore[operator]

    def _sent_a_cycle(self, number: int) -> None:
        """The other site has this point: it is what both have in common."""
        self.common = Cycle(b"common" + bytes(10), self._images())
        self.common_number = number
        self.number = number if self.is_agreed else number + 1

    def _images(self) -> Images:
        return tuple(bytes(volume) for volume in self.current)

    def _write_sender(self) -> None:
        """The sending role has been closed in good order: its bitmaps are durable."""
        fork = Fork(
            OTHER_LINEAGE,
            OWN_LINEAGE,
            CycleName(self.common_number, self.common.cycle_id),
            5,
            9,
        )
        state = GroupState(
            group=SETTINGS.group,
            group_id=GROUP_ID,
            lineage=OWN_LINEAGE,
            cycle_number=self.common_number,
            cycle_id=self.common.cycle_id,
            committed_number=self.common_number,
            committed_cycle_id=self.common.cycle_id,
            committed_cut_ns=5,
            current_as_of_ns=5,
            clean=True,
            superseded=ToldFork(fork, self.is_known or self.is_agreed),
            handing=fork if self.is_agreed else None,
            gives_up=True,
            volumes={
                offer.name: VolumeState(
                    offer.volume_id,
                    offer.size_bytes,
                    offer.track_bytes,
                    16384,
                    full=False,
                )
                for offer in self.offers
            },
        )
        directory = f"{SENT}/groups/{SETTINGS.group}"
        self.disk.make_directory(directory)
        for index, offer in enumerate(self.offers):
            bitmap = self._differing(index)
            path = f"{directory}/{offer.name}.changed"
            stored = BitmapFile.open(self.disk, path, bitmap.bit_count)
            stored.save({0: bytes(bitmap.data[:4096])} if bitmap.count else {})
            stored.datasync()
            stored.close()
        self.disk.sync_directory(directory)
        record = DurableRecord(f"{directory}/group.record", self.disk)
        record.load()
        record.store(to_record(state))

    def _differing(self, index: int) -> Bitmap:
        """Return the tracks that this site alone has changed since the common point."""
        offer = self.offers[index]
        tracks = -(-offer.size_bytes // offer.track_bytes)
        bitmap = Bitmap(tracks)
        own, common = self.given_up()[index], self.common.images[index]
        for track in range(tracks):
            at = slice(track * offer.track_bytes, (track + 1) * offer.track_bytes)
            if own[at] != common[at]:
                bitmap.set(track)
        return bitmap

    def given_up(self) -> Images:
        cycle = self.history.get(self.number)
        return self._images() if cycle is None else cycle.images

    def _restart_store(self) -> None:
        self.store.close()
        self.watch(self.disk.after_kill())
        self.store = self._open(self.disk)

    # -- what is looked at -------------------------------------------------------------

    def _give_up(self) -> None:
        self.history[self.number] = Cycle(self.common.cycle_id, self._images())
        self.told.point = self.told.begun = self.told.progress = 0
        self.promised()
        self._begin(self.store, self.disk)
        self._has_begun(self.store)

    def _begin(self, store: GroupDisk, disk: CrashDisk) -> None:
        """What the daemon does, and again after a crash: see `SiteGroups._receive`."""
        parted = read_parted(disk, SENT, SETTINGS.group)
        newest = store.points[-1].number if store.points else 0
        begin_receiving(store, beginning_of(parted, PEER, newest, 11))

    def _has_begun(self, store: GroupDisk) -> None:
        assert store.state is not None
        self.is_begun = self.is_bound = True
        self.told.point, self.told.epoch = self.number, store.state.epoch
        self.promised()

    def _receive(self) -> None:
        """The other site sends a cycle: its own changes, and what was told to it."""
        number = max(self.history) + 1
        if number == self.number + 1:
            self.current = [bytearray(image) for image in self.common.images]
        self._mutate()
        self._note(number)
        if self.rng.random() < 0.3:
            self._restart()
        self._new_epoch()
        self._synchronise(number)

    def _delete(self) -> None:
        if self.is_agreed:
            return
        self.is_deleting = True
        self.promised()
        delete_fork(self.store, self.number)
        self.is_deleted = True
        self.promised()

    # -- the oracle --------------------------------------------------------------------

    def recover(self, disk: CrashDisk) -> None:
        if not self.is_sent:
            super().recover(disk)
            return
        store = self._open(disk)
        try:
            state = store.state
            if state is None or state.lineage != OTHER_LINEAGE:
                if self.is_begun:
                    raise ViolationError("what was given up is forgotten")
                self._check_devices(store)
                self._begin(store, disk)
            self._check(store)
            self._check_fork(store)
            self._check_told(store)
        finally:
            store.close()

    def go_on_from(self, disk: CrashDisk) -> None:
        if not self.is_sent:
            super().go_on_from(disk)
            return
        was = self.is_bound
        self.is_bound = True  # `recover` has begun it
        try:
            super().go_on_from(disk)
        finally:
            self.is_bound = was

    def _check_devices(self, store: GroupDisk) -> None:
        """Nothing is overwritten before there is a point to keep what is there."""
        for volume, wanted in zip(store.volumes, self.given_up(), strict=False):
            if volume.device.read(0, len(wanted)) != wanted:
                raise ViolationError(f"{volume.offer.name} is overwritten already")

    def _check_fork(self, store: GroupDisk) -> None:
        assert store.state is not None
        kept: Sequence[KeptFork] = store.state.forks
        listed = {point.number for point in store.points}
        if self.is_agreed:
            if kept:
                raise ViolationError("what was handed over is kept as a fork")
            return
        numbers = {fork.number for fork in kept}
        if self.is_deleted and numbers:
            raise ViolationError("a fork that was deleted is back")
        if numbers and not numbers <= listed:
            raise ViolationError("a fork is listed, and its point is gone")
        if not numbers and not self.is_deleting:
            raise ViolationError("the fork is gone, and nobody has deleted it")

    def _check_told(self, store: GroupDisk) -> None:
        """Until a point has come, the other site hears of all that differs."""
        state = store.state
        assert state is not None
        committed = state.judged().committed
        is_first = state.points[-1].number == self.number
        if self.is_agreed or not is_first:
            if state.is_divided:
                raise ViolationError("a point has come, and something still differs")
            return
        if not self.is_known:
            if committed is not None:
                raise ViolationError("an older copy claims to have the common point")
            return
        if committed != CycleName(self.common_number, self.common.cycle_id):
            raise ViolationError(f"{committed} is not what both have")
        for index, offer in enumerate(self.offers):
            missed = self._differing(index)
            missed.subtract(_told(store, index))
            if missed.count:
                raise ViolationError(
                    f"{offer.name}: {missed.count} tracks are not told"
                )

    def _compare(self, store: GroupDisk, point: Point) -> None:
        if point.number == self.number and not self.is_agreed:
            # Each try names the fork anew.
            images = self.history[self.number].images
            self.history[self.number] = Cycle(point.cycle_id, images)
        super()._compare(store, point)


def _told(store: GroupDisk, index: int) -> Bitmap:
    tracks = store.volumes[index].geometry.track_count
    told, first = Bitmap(tracks), 0
    while first < tracks:
        runs, first = told_changes(store, index, first)
        for run in runs:
            told.set_range(*run)
    return told


def _preserving(store: GroupDisk, index: int, offset: int, data: bytes) -> None:
    device = PreservingDevice(store.volumes[index])
    device.write(offset, data)
    device.datasync()
