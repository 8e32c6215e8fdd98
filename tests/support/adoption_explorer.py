"""Crash a primary that is given the state it has lost, and its first starts after that.

Its devices are there, its record is not; files of an earlier life may lie beside. In
every image the group has no state, and can be given it again, or it has all of it: it
is the sender that the remote has met, and every track is to be compared, so that none
can differ unnoticed (I4). Nothing of a device changes.
"""

from __future__ import annotations

from common.service.config_primary import PrimaryConfig
from common.service.group_identity import (
    CycleIdentity,
    GroupIdentity,
    PointIdentity,
    VolumeIdentity,
)
from common.storage.record import DurableRecord
from primary_site.adopting import RECORD_NAME, adopt
from primary_site.opening import OpenedGroup, open_group
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import Exploration, ViolationError
from tests.support.crash.region_log_explorer import small_areas
from tests.support.primary_explorer import CONFIG, SIZES, STATE, TRACKS

DIRECTORY = f"{STATE}/groups/{CONFIG.name}"
RECORD = f"{DIRECTORY}/{RECORD_NAME}"
STARTS = 3
LEFTOVER_SHARE = 0.5
SITE = PrimaryConfig.model_validate(
    {
        "site": {"name": "amsterdam", "state_dir": STATE, "control_socket": "/c"},
        "nbd": {"listen": ["unix:/n"]},
        "group": [CONFIG.model_dump(mode="json", by_alias=True, exclude_unset=True)],
    }
)


class AdoptionExploration(Exploration):
    """A loss, an adoption, some starts; power cuts and kills anywhere."""

    COMPONENT = "adoption"
    is_adopted = False

    def explore(self) -> None:
        with small_areas():
            self._explore()

    def _explore(self) -> None:
        self._found = self._identity()
        self._contents = {n: self.rng.randbytes(size) for n, size in SIZES.items()}
        disk = self._lost_site()
        self.watch(disk)
        self._adopt(self.disk)
        self.is_adopted = True
        self.promised()
        for _ in range(STARTS):
            if self.rng.random() < 0.7:
                is_kill = self.rng.random() < 0.3
                self.watch(self.disk.after_kill() if is_kill else self.some_power_cut())
            _close(self._opened(self.disk))
            self.at_step("started", "")

    def _lost_site(self) -> CrashDisk:
        disk = self.new_disk()
        for directory in ("/devices", STATE):
            disk.make_directory(directory)
        for name, content in self._contents.items():
            device = disk.open(f"/devices/{name}.img", create=True)
            device.truncate(len(content))
            device.write(0, content)
            device.datasync()
            device.close()
        disk.sync_directory("/devices")
        if self.rng.random() < LEFTOVER_SHARE:
            _close(open_group(disk, STATE, CONFIG, "primary.toml"))
            disk.remove(RECORD)
            disk.sync_directory(DIRECTORY)
        return disk

    def _identity(self) -> GroupIdentity:
        number = self.rng.randrange(1, 1000)
        point = PointIdentity(
            number=number, id=self._id(), cut_ns=number * 7, current_as_of_ns=number * 9
        )
        begun = CycleIdentity(number=number, id=point.id)
        if self.rng.random() < 0.5:  # it has begun another one since
            begun = CycleIdentity(number=number + 1, id=self._id())
        return GroupIdentity(
            group=CONFIG.name,
            primary=SITE.site.name,
            group_id=self._id(),
            lineage=self._id(),
            epoch=self.rng.randrange(1, 99),
            receipt=self._id(),
            begun=begun,
            point=point if self.rng.random() < 0.8 else None,
            volumes=tuple(
                VolumeIdentity(
                    name=name, id=self._id(), size_bytes=size, track_bytes=TRACKS[name]
                )
                for name, size in SIZES.items()
            ),
        )

    def _id(self) -> str:
        return self.rng.randbytes(16).hex()

    def _adopt(self, disk: CrashDisk) -> None:
        adopt(disk, SITE, SITE.groups[0], self._found)

    @staticmethod
    def _opened(disk: CrashDisk) -> OpenedGroup:
        return open_group(disk, STATE, CONFIG, "primary.toml")

    # -- the oracle --------------------------------------------------------------------

    def recover(self, disk: CrashDisk) -> None:
        if DurableRecord(RECORD, disk).load() is None:
            if self.is_adopted:
                raise ViolationError("the state that was given is gone")
            self._adopt(disk)
        opened = self._opened(disk)
        try:
            self._compare(opened)
        finally:
            _close(opened)

    def _compare(self, opened: OpenedGroup) -> None:
        found, state = self._found, opened.state
        newest = found.begun.number if found.begun else 0
        if (state.group_id.hex(), state.lineage.hex(), state.epoch) != (
            found.group_id,
            found.lineage,
            found.epoch,
        ):
            raise ViolationError("it is not the sender that the remote has met")
        if state.cycle_number < newest:
            raise ViolationError(f"cycle {newest} may be named again")
        committed = None if found.point is None else found.point.number
        if state.committed_number != committed:
            raise ViolationError(f"point {state.committed_number} is not the remote's")
        for volume in opened.volumes:
            verdict, tracks = volume.verdict, volume.geometry.track_count
            if verdict.carried.count < tracks or verdict.acked.count:
                raise ViolationError(f"{volume.name}: not every track is compared")
            data = volume.device.read(0, volume.geometry.size_bytes)
            if data != self._contents[volume.name]:
                raise ViolationError(f"{volume.name}: the device has changed")


def _close(opened: OpenedGroup) -> None:
    for volume in opened.volumes:
        volume.device.close()
        volume.durable.close()
