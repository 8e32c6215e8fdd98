"""Crash a takeover at every write and flush: recover, finish it, compare.

The store's own code, the preparation of the sending role's state, and hosts that write
through the preserving device run on a `CrashDisk`. From the moment at which the intent
was durable every image has to end, by the same steps again, with devices that hold the
point that was chosen, and with points before and after it as they were; once hosts may
write, with what they flushed.
"""

from __future__ import annotations

from functools import partial

from common.errors import ProtocolError
from common.replication.lineage import CycleName
from common.service.config_primary import PrimaryGroup
from common.storage.bitmap_file import BitmapFile
from common.storage.record import DurableRecord
from primary_site.group_state import GroupState, from_record
from primary_site.opening import open_group
from primary_site.taking_over import prepare_sending
from remote_site.group_disk import GroupDisk
from remote_site.preserving_device import PreservingDevice
from remote_site.sending import preserving_files, sending_start
from remote_site.takeover_disk import finish, intend, roll_back, rolled_back_bytes
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import ViolationError
from tests.support.remote_store_explorer import (
    CYCLES,
    GROUP_ID,
    LINEAGE,
    OFFERS,
    PEER,
    SENDER,
    SETTINGS,
    Images,
    Lie,
    RemoteExploration,
)

SENDING = f"{SETTINGS.state_directory}/sending"
NEW_LINEAGE = b"N" * 16
SECTOR = 512
BLOCK_SECTORS = 8
HOST_WRITES = 12

CONFIG = PrimaryGroup.model_validate(
    {
        "name": SETTINGS.group,
        "link": {
            "remotes": ["a:1"],
            "peer": PEER,
            "allow_plaintext_replication": True,
        },
        "flashcopy": {"directory": "/flashcopy"},
        "volume": [
            {"name": name, "device": path, "region_size": "16KiB"}
            for name, path in SETTINGS.devices.items()
        ],
    }
)


class TakeoverExploration(RemoteExploration):
    """Some cycles, one that never ends, a takeover from any point, then hosts."""

    COMPONENT = "takeover"
    is_received = is_intended = is_done = False

    def __init__(
        self, seed: int, *, images_per_step: int = 12, lie: Lie | None = None
    ) -> None:
        super().__init__(seed, images_per_step=images_per_step, lie=lie, error_odds=0.0)
        self.retained = self.rng.choice((1, 2, 3))
        self.number = 0
        """Of the point that was chosen."""
        self.before: list[bytes] = []
        """What the devices held as the takeover began."""
        self.written: list[bytearray] = []
        """What hosts see since."""
        self.unflushed: list[set[int]] = [set() for _ in OFFERS]
        """Sectors written by hosts and not flushed since."""

    # -- the run -----------------------------------------------------------------------

    def explore(self) -> None:
        self._receive()
        self._take_over()
        self._serve_hosts()
        self._open_as_sender()
        self.at_step("end", "")

    def _receive(self) -> None:
        """As the sender has it, and unwatched: `RemoteExploration` looks at that."""
        self._is_looking = True
        self.store.bind(GROUP_ID, LINEAGE, PEER, OFFERS)
        self.is_bound = True
        self._new_epoch()
        for number in range(1, self.rng.randrange(2, CYCLES + 1)):
            self._mutate()
            self._note(number)
            self._synchronise(number)
        if self.rng.random() < 0.8:
            self.store.begin_cycle(CycleName(number + 1, b"cut short" + bytes(7)))
            for _ in range(self.rng.randrange(1, 4)):
                self._abandoned_cycle(self.store)
        self._is_looking = False
        self.is_received = True

    def _take_over(self) -> None:
        points = self.store.state_points
        self.number = self.rng.choice([point.number for point in points])
        if self.rng.random() < 0.5:
            self.number = points[-1].number
        self.before = [
            bytes(volume.device.read(0, volume.offer.size_bytes))
            for volume in self.store.volumes
        ]
        self.written = [bytearray(image) for image in self.chosen()]
        number = None if self.number == points[-1].number else self.number
        intend(self.store, number, NEW_LINEAGE, 77)
        self.is_intended = True
        self.promised()
        if self.rng.random() < 0.3:
            self._restarted()
        self._carry_out(self.store, self.disk)
        self.is_done = True
        self.promised()

    def chosen(self) -> Images:
        return self.history[self.number].images

    def _carry_out(self, store: GroupDisk, disk: CrashDisk) -> None:
        """What the daemon does from the intent on; again after a crash."""
        state = store.state
        assert state is not None
        assert state.takeover is not None
        number = state.takeover.fork.cycle.number
        total = rolled_back_bytes(store.volumes, number)
        if sum(roll_back(store.volumes, number)) != total:
            raise ViolationError("the way back is not as long as was said")
        prepare_sending(disk, SENDING, sending_start(store, CONFIG))
        finish(store)

    def _serve_hosts(self) -> None:
        for _ in range(HOST_WRITES):
            if self.rng.random() < 0.15:
                self._restarted()
            index = self.rng.randrange(len(OFFERS))
            device = PreservingDevice(self.store.volumes[index])
            if self.rng.random() < 0.3:
                device.datasync()
                self.unflushed[index] = set()
                self.promised()
            else:
                self._host_writes(index, device)

    def _host_writes(self, index: int, device: PreservingDevice) -> None:
        sectors = OFFERS[index].size_bytes // SECTOR
        first = self.rng.randrange(sectors)
        count = min(self.rng.randrange(1, 24), sectors - first)
        # A disk may write no less than a block of its own: the rest of one is at stake.
        end = -(-(first + count) // BLOCK_SECTORS) * BLOCK_SECTORS
        self.unflushed[index] |= set(range(first - first % BLOCK_SECTORS, end))
        self.promised()
        at, length = first * SECTOR, count * SECTOR
        if self.rng.random() < 0.3:
            device.write_zeroes(at, length, punch=self.rng.random() < 0.5)
            data = bytes(length)
        else:
            data = self.rng.randbytes(length)
            device.write(at, data)
        self.written[index][at : at + length] = data

    def _restarted(self) -> None:
        """Go on from a power cut or a kill."""
        is_kill = self.rng.random() < 0.5
        disk = self.disk.after_kill() if is_kill else self.some_power_cut()
        self.watch(disk)
        self.store = self._open(disk)
        for index, volume in enumerate(self.store.volumes):
            if self.is_done:
                found = volume.device.read(0, volume.offer.size_bytes)
                self.written[index] = bytearray(found)
            self.unflushed[index] = set()  # the start has flushed what it found
        self.promised()

    def _open_as_sender(self) -> None:
        """The sending role opens what was prepared, with the product's own code."""
        files = preserving_files(self.disk, self.store)
        opened = open_group(files, SENDING, CONFIG, "remote.toml")
        self._check_state(opened.state)
        for volume in opened.volumes:
            volume.durable.close()

    # -- the oracle --------------------------------------------------------------------

    def recover(self, disk: CrashDisk) -> None:
        store = self._open(disk)
        try:
            self._check(store)
            taken = None if store.state is None else store.state.takeover
            if taken is None:
                if self.is_intended:
                    raise ViolationError("a takeover that was decided is forgotten")
                return
            if taken.fork.cycle.number != self.number:
                raise ViolationError(f"another point: {taken.fork.cycle.number}")
            if self.is_done and not taken.is_done:
                raise ViolationError("a takeover that had ended begins again")
            self._check_receives_nothing(store)
            was_done = taken.is_done
            if not was_done:
                self._carry_out(store, disk)
            self._check_devices(store, was_done=was_done)
            self._check_sending(store, disk)
            self._check(store)
        finally:
            store.close()

    def go_on_from(self, disk: CrashDisk) -> None:
        """`recover` went on already."""

    def _check_receives_nothing(self, store: GroupDisk) -> None:
        for late in (
            partial(store.new_epoch, SENDER),
            partial(store.begin_cycle, CycleName(99, b"late" * 4)),
            partial(store.commit_point, 99, b"late" * 4, 0, None),
            store.flush,
        ):
            try:
                late()
            except ProtocolError:
                continue
            raise ViolationError("something of the old sender takes effect")

    def _check_devices(self, store: GroupDisk, *, was_done: bool) -> None:
        """Before hosts: the point, to the byte; then what hosts flushed."""
        for index, volume in enumerate(store.volumes):
            found = volume.device.read(0, volume.offer.size_bytes)
            if found == self.chosen()[index] and not self.is_done:
                continue
            if not was_done:
                raise ViolationError(f"{volume.offer.name} is not point {self.number}")
            wanted = self.written[index]
            for sector in range(len(wanted) // SECTOR):
                at = slice(sector * SECTOR, (sector + 1) * SECTOR)
                if sector not in self.unflushed[index] and found[at] != wanted[at]:
                    raise ViolationError(
                        f"{volume.offer.name}: sector {sector} is lost"
                    )

    def _check_sending(self, store: GroupDisk, disk: CrashDisk) -> None:
        directory = f"{SENDING}/groups/{SETTINGS.group}"
        path = f"{directory}/group.record"
        stored = DurableRecord(path, disk).load()
        if stored is None:
            raise ViolationError("there is nothing to send with")
        self._check_state(from_record(stored, path))
        for index, volume in enumerate(store.volumes):
            offer = volume.offer
            tracks = volume.geometry.track_count
            bitmap = BitmapFile.open(disk, f"{directory}/{offer.name}.changed", tracks)
            carried = bitmap.load(when_damaged=False)
            bitmap.close()
            images = [self.before[index]]
            images += [
                cycle.images[index]
                for number, cycle in self.history.items()
                if number > self.number
            ]
            for track in range(tracks):
                at, length = volume.geometry.byte_range(track, 1)
                wanted = self.chosen()[index][at : at + length]
                differs = any(each[at : at + length] != wanted for each in images)
                if differs and not carried.test(track):
                    raise ViolationError(f"{offer.name}: track {track} is not carried")

    def _check_state(self, state: GroupState) -> None:
        newest = max(self.told.begun, self.told.point, self.number)
        cycle = self.history[self.number]
        if (state.group_id, state.lineage) != (GROUP_ID, NEW_LINEAGE):
            raise ViolationError("it sends in another line of data")
        if state.cycle_number < newest:
            raise ViolationError(f"cycle {newest} may be named again")
        if (state.committed_number, state.committed_cycle_id) != (
            self.number,
            cycle.cycle_id,
        ):
            raise ViolationError("the common point is another one")
