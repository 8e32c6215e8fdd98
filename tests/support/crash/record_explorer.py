"""The durable record of either site, with few volumes and with many.

What recovery reads is the record stored last, or the one being stored: whole, never
an older one, never none after the first. One whose store a crash cut short may come
back until the next store is durable: the sectors of the next one can make it whole.
That is why both sites store the record anew at a start, before they act on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from common.ports import FileIdentity
from common.replication.session_messages import VolumeOffer
from common.storage.record import DurableRecord
from primary_site import group_state
from primary_site.group_state import GroupState, VolumeState
from remote_site import store_state
from remote_site.store_state import Point, StoreState
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import (
    Exploration,
    NothingToRecover,
    ViolationError,
)

PATH = "/state/group.record"
VOLUMES = (1, 2, 5, 12, 30, 60)
"""A volume takes some 150 bytes of a record: these fill from one sector to twenty."""

STORES = 12

State = GroupState | StoreState


class RecordExploration(Exploration):
    """Stores, power cuts, stores."""

    COMPONENT = "record"

    def explore(self) -> None:
        disk = self.new_disk()
        disk.make_directory("/state")
        self._allowed: list[State | None] = [None]
        self._read: Callable[[dict[str, Any], str], State] = group_state.from_record
        self._write: Callable[[Any], dict[str, Any]] = group_state.to_record
        state: State = self._primary_state(self.rng.choice(VOLUMES))
        if self.rng.random() < 0.5:
            self._read, self._write = store_state.from_record, store_state.to_record
            state = self._remote_state(self.rng.choice(VOLUMES))
        self.watch(disk)
        record = DurableRecord(PATH, disk)
        for _ in range(STORES):
            state = self._changed(state)
            self._store(record, state)
            if self.rng.random() < 0.25:
                self.watch(self.some_power_cut())
                record = DurableRecord(PATH, self.disk)
                found = self._found(record)
                assert found is not None
                state = found
                self.promised()

    def _store(self, record: DurableRecord, state: State) -> None:
        self._allowed.append(state)
        self.promised()
        record.store(self._write(state))
        self._allowed = [state]
        self.promised()
        self.at_step("stored", PATH)

    def _found(self, record: DurableRecord) -> State | None:
        stored = record.load()
        return None if stored is None else self._read(stored, PATH)

    def recover(self, disk: CrashDisk) -> None:
        found = self._found(DurableRecord(PATH, disk))
        if found not in self._allowed:
            raise ViolationError(f"the record is {found}, not {self._allowed[-1]}")

    def go_on_from(self, disk: CrashDisk) -> None:
        """Store another one after the recovery, crashed in its turn."""
        was = self._allowed
        record = DurableRecord(PATH, disk)
        found = self._found(record)
        state = self._changed(found or self._primary_state(1))
        if type(state) is not type(was[-1]):
            raise NothingToRecover
        try:
            self._allowed = [*was, state]
            self.promised()
            record.store(self._write(state))
            self._allowed = [state]
            self.promised()
            self.recover(disk.after_kill())
        finally:
            self._allowed = was

    # -- states ------------------------------------------------------------------------

    def _changed(self, state: State) -> State:
        identity = self.cut_rng.randbytes(16)
        if isinstance(state, GroupState):
            number = state.cycle_number + 1
            name = self.cut_rng.choice(sorted(state.volumes))
            volume = replace(
                state.volumes[name],
                identity=FileIdentity(1, number, 4096, self.cut_rng.getrandbits(60)),
            )
            state = replace(state, cycle_number=number, cycle_id=identity)
            return state.with_volume(name, volume)
        number = state.epoch + 1
        if len(state.points) > 3:
            state = state.since(state.points[-2].number)
        point = Point(number, identity, number * 7, number * 9, f"cut {number}")
        return replace(state, epoch=number).with_point(point, identity)

    def _primary_state(self, volumes: int) -> GroupState:
        return GroupState(
            "orders",
            b"g" * 16,
            b"L" * 16,
            volumes={
                f"volume-{i}": VolumeState(
                    self.rng.randbytes(16), 4096 * (i + 1), 4096, 4096
                )
                for i in range(volumes)
            },
        )

    def _remote_state(self, volumes: int) -> StoreState:
        return StoreState(
            group="orders",
            group_id=b"g" * 16,
            lineage=b"L" * 16,
            peer="amsterdam",
            epoch=0,
            relation_id=b"r" * 16,
            volumes=tuple(
                VolumeOffer(f"volume-{i}", self.rng.randbytes(16), 4096 * (i + 1), 4096)
                for i in range(volumes)
            ),
            created=(True,) * volumes,
        )
