"""A group's storage at the remote: devices, journals, and the one record.

Synchronous; everything may block and runs in threads. What readers on the loop
look at (`state`, `points`, `volumes`, a volume's `journals`) is replaced as a
whole, and only once it is durable.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from common.errors import ProtocolError
from common.ports import File, Files
from common.replication.lineage import ID_BYTES, CycleName, SenderState
from common.replication.messages import PROGRESS_MAX, VolumeOffer
from common.storage.flush_guard import FlushGuard
from common.storage.journal import Journal
from common.storage.journal_merge import JournalMerge
from remote_site.group_journals import GroupJournals
from remote_site.growing import check_growth, extend_device
from remote_site.listed_points import ListedPoints
from remote_site.member_transitions import settled, with_joined
from remote_site.secondary import SecondaryVolume
from remote_site.secondary_device import (
    make_devices,
    open_device,
)
from remote_site.store_checks import check_bound, check_offer, check_settings
from remote_site.store_record import StoreRecord
from remote_site.store_state import Point, StoreState, sized

LOCK_NAME = "lock"

Retain = Callable[[Sequence[Point]], set[int]]


def keep_newest(points: Sequence[Point]) -> set[int]:
    """Retain the newest point only."""
    return {points[-1].number}


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where a group lives: both directories are its own and made when absent.

    `peer` is the site that the config receives it from; None: whoever bound it.
    `accept_existing` names volumes whose devices may hold data when the group is bound.
    `journal_limit_bytes`: for all journals of the group; None: as much as the disk has.
    `has_hard_pins`: what is pinned stays also where that limit is reached.
    """

    group: str
    state_directory: str
    journal_directory: str
    devices: Mapping[str, str]
    peer: str | None = None
    accept_existing: frozenset[str] = frozenset()
    journal_limit_bytes: int | None = None
    has_hard_pins: bool = False


class GroupDisk:
    """`retain` says which points stay at a commit; pinned ones stay beside them.

    Pins are connections: they end with the process, so the record need not list
    what only a pin keeps.
    """

    def __init__(
        self,
        files: Files,
        settings: StoreSettings,
        retain: Retain = keep_newest,
        new_identity: Callable[[], bytes] = lambda: secrets.token_bytes(ID_BYTES),
        settled: Retain | None = None,
    ) -> None:
        self.settings = settings
        self.retain = retain
        self.settled = settled or retain
        """Which of those that stay will stay for longer than the newest few."""
        self.guard = FlushGuard()
        self.state: StoreState | None = None
        self.listed = ListedPoints()
        self.volumes: tuple[SecondaryVolume, ...] = ()
        self.files = self._files = files
        self._new_identity = new_identity
        self._record = StoreRecord(files, settings.state_directory, self.guard)
        self._record_path = self._record.path
        self._journals = GroupJournals(files, settings.journal_directory, self.guard)
        self._changing = threading.Lock()
        """Held by whoever changes the record: one read-change-write at a time."""
        self._lock_file: File | None = None

    # -- start -------------------------------------------------------------------------

    def open(self) -> None:
        """Recover what is on disk, whatever stopped the last process.

        Order: fdatasync of each thing before it is read and trusted, then the
        record again without what nothing retains, then orphans go. The crash it
        defends against: a power loss that takes back what this start has told its
        peer, left in the page cache by a killed process. Raises `CorruptStateError`,
        `StateMismatchError`, `DeviceError`, `DeviceBusyError`; on disk nothing has
        changed then.
        """
        files, settings = self._files, self.settings
        files.make_directory(settings.state_directory)
        with ExitStack() as undo:
            lock_path = f"{settings.state_directory}/{LOCK_NAME}"
            lock = files.open(lock_path, create=True, lock=True)
            undo.callback(lock.close)
            state = self._record.load()
            if state is not None:
                check_settings(
                    state,
                    settings.group,
                    settings.devices,
                    settings.peer,
                    self._record_path,
                )
            files.make_directory(settings.journal_directory)
            if state is not None:
                if state.takeover is None:  # else the way back may need them all
                    state = settled(state.since(self._oldest_retained(state)))
                volumes = self._open_volumes(state, undo)
                self._journals.attach(state, volumes, undo, self._record_path)
                self._store(state)
                self.volumes = volumes
                self.listed.replace(state.points)
                self._journals.remove_orphans(state)
                self._record.remove_orphans()
            undo.pop_all()
        self._lock_file = lock

    def _open_volumes(
        self, state: StoreState, undo: ExitStack
    ) -> tuple[SecondaryVolume, ...]:
        volumes = []
        growing = state.growing or (0,) * len(state.volumes)
        has_hosts = state.takeover is not None and state.takeover.is_done
        for offer, growing_bytes, member in zip(
            state.volumes, growing, state.memberships, strict=True
        ):
            key = f"group {state.group!r}, volume {offer.name!r}"
            if member.has_left:
                key += f" (removed; points up to {member.last} have it)"
            path = member.device or self.settings.devices[offer.name]
            device = open_device(
                self._files,
                path,
                offer.size_bytes,
                key,
                is_bound=True,
                growing_bytes=growing_bytes,
                may_be_longer=has_hosts,
            )
            volume = SecondaryVolume(offer, device, self.guard)
            undo.callback(volume.close)
            volume.is_unsynced = True  # by a process that was killed
            volume.datasync()
            device.drop_cache()
            volumes.append(volume)
        return tuple(volumes)

    # -- the record --------------------------------------------------------------------

    def _store(self, state: StoreState) -> None:
        """Make the state durable, then visible."""
        self.guard.check()
        try:
            self._record.store(state)
        finally:
            # Which record the disk holds is unknown now: nothing may rely on it.
            self.guard.failed = self.guard.failed or self._record.failed
        self.state = state

    def _known(self) -> StoreState:
        """Return the state, whatever the group does now."""
        assert self.state is not None, "the group is not bound yet"
        return self.state

    def _bound(self) -> StoreState:
        """Return the state of a group that receives.

        Raises `ProtocolError` once the intent to take over is durable: whatever asks
        late has no effect any more (I8).
        """
        state = self._known()
        if state.takeover is not None:
            raise ProtocolError(
                f"group {state.group!r} was taken over here: it receives no more"
            )
        return state

    @property
    def members(self) -> tuple[SecondaryVolume, ...]:
        """Those of `volumes` that the group has now."""
        return tuple(
            volume
            for volume, member in zip(
                self.volumes, self._known().memberships, strict=True
            )
            if not member.has_left
        )

    @property
    def state_points(self) -> tuple[Point, ...]:
        """The points that the record names: pins alone keep no other for long."""
        return self.state.points if self.state is not None else ()

    def change(self, change: Callable[[StoreState], StoreState]) -> StoreState:
        """Make `change(state)` durable, then visible, and return it.

        For what is done to a group, not by its sender. What `change` raises leaves
        the state as it is.
        """
        with self._changing:
            self._store(change(self._known()))
            return self._known()

    def replace_volumes(
        self,
        change: Callable[[StoreState], StoreState],
        opened: Sequence[SecondaryVolume] = (),
    ) -> None:
        """Make `change(state)` durable, which has other volumes, then visible.

        `opened`: those that are new. Devices of those that are gone are closed; nobody
        reads them, for no point has them. No session is open.
        """
        with self._changing:
            self.guard.check()
            self._store(change(self._known()))
            known = {v.offer.volume_id: v for v in (*self.volumes, *opened)}
            named = [offer.volume_id for offer in self._known().volumes]
            gone = [v for v in self.volumes if v.offer.volume_id not in named]
            self.volumes = tuple(known[volume_id] for volume_id in named)
            by_number = {point.number: point for point in self._known().points}
            self.listed.replace([by_number.get(p.number, p) for p in self.points])
            for volume in gone:
                volume.close()

    def bind(
        self,
        group_id: bytes,
        lineage: bytes,
        peer: str,
        volumes: tuple[VolumeOffer, ...],
    ) -> None:
        """Tie the group to its sender; see `GroupStore.bind`.

        Order: devices (made, fsynced with their directories), then one record. The
        crash it defends against: a record that names devices which are not there.
        """
        with self._changing:
            self.guard.check()
            if self.state is not None:
                check_bound(
                    self.state, group_id, lineage, peer, volumes, self._record_path
                )
                return
            check_offer(self.settings.group, volumes, self.settings.devices)
            key = f"group {self.settings.group!r}"
            with ExitStack() as undo:
                devices, created = make_devices(
                    self._files,
                    self.settings.devices,
                    key,
                    volumes,
                    self.settings.accept_existing,
                    self.guard,
                    undo,
                )
                self._store(
                    StoreState(
                        group=self.settings.group,
                        group_id=group_id,
                        lineage=lineage,
                        peer=peer,
                        epoch=0,
                        relation_id=self._new_identity(),
                        volumes=volumes,
                        created=created,
                    )
                )
                undo.pop_all()
            self.volumes = tuple(
                SecondaryVolume(offer, device, self.guard)
                for offer, device in zip(volumes, devices, strict=True)
            )

    def new_epoch(self, sender: SenderState) -> int:
        with self._changing:
            self._store(self._bound().met(sender, self._new_identity()))
            return self._bound().epoch

    def begin_cycle(self, cycle: CycleName) -> None:
        """Record that tracks of this cycle may be applied from now on.

        Order: the record, fdatasync; only then the first track. The crash it defends
        against: a sender whose state is older than what was applied here, and which
        does not know what it must send again.
        """
        with self._changing:
            state = self._bound().heard()
            begun = state.begun
            if begun is not None and begun != cycle and begun.number >= cycle.number:
                raise ProtocolError(
                    f"cycle {cycle.number} begins after cycle {begun.number}"
                )
            state = replace(state, begun=cycle)
            if state != self.state:
                self._store(state)

    def note(self, cycle_id: bytes | None) -> None:
        """Record that the sender has recorded this session, and the newest point."""
        with self._changing:
            state = self._bound()
            newest = state.committed
            if cycle_id == (None if newest is None else newest.cycle_id):
                state = state.heard()
            if state != self.state:
                self._store(state)

    def advance_current(self, number: int, time_ns: int) -> None:
        """Move the newest point's time forward, durably; backwards is ignored."""
        with self._changing:
            state = self._bound().heard()
            if not state.points or state.points[-1].number != number:
                raise ProtocolError(f"point {number} is not the newest")
            newest = state.points[-1]
            if time_ns <= newest.current_as_of_ns:
                return
            newest = replace(newest, current_as_of_ns=time_ns)
            self._store(replace(state, points=(*state.points[:-1], newest)))
            self.listed.replace((*self.points[:-1], newest))

    def grow(self, index: int, from_bytes: int, size_bytes: int) -> None:
        """Make a volume as large as the sender's record says it has grown.

        Order: the record with the intent, fdatasync; the device extended, fdatasync;
        the record with the volume's size and those of the points before it; only then
        visible. The crashes it defends against: a device of a length that no record
        explains; a point that is taken to be as large as its volume has become.

        Between cycles. Raises `DeviceError` or `StateMismatchError`: then nothing has
        changed but the intent.
        """
        with self._changing:
            self.guard.check()
            state = self._bound()
            if not check_growth(
                state, index, from_bytes, size_bytes, self._record_path
            ):
                return
            volume = self.volumes[index]
            self._store(state.will_grow(index, size_bytes))
            before = volume.offer
            extend_device(
                volume.device, before.size_bytes, size_bytes, self.guard, before.name
            )
            with volume.lock:
                state = self._bound()
                self._store(state.grown(index, size_bytes))
                self.listed.replace([sized(p, state.sizes) for p in self.points])
                volume.take_size(self._bound().volumes[index])

    # -- commit ------------------------------------------------------------------------

    def commit_point(
        self,
        number: int,
        cycle_id: bytes,
        cut_ns: int,
        label: str | None,
        begin: Callable[[StoreState], StoreState] | None = None,
        whole: frozenset[int] = frozenset(),
    ) -> bytes:
        """Make what the devices hold now the newest point, of all volumes at once.

        `whole`: indexes of joining ones whose first copy the cycle completes; others
        that are joining the point does not have. `begin` gives the state that the point
        is added to, where the same record makes the group receive from another line of
        data (`giving_up.py`).

        Order: fdatasync of every device; the open journals whole; the next journals
        with their headers, each fdatasynced, and their directory; one record for the
        group, fdatasync; only then visible. The crashes it defends against: a point
        named before its bytes are on the disk; a track overwritten in the new
        relation whose journal's name is lost; one volume at the new cut and another
        at the old.

        Returns the new relation's id; for the newest point's cycle id just that.
        """
        with self._changing, ExitStack() as held:
            for volume in self.volumes:
                held.enter_context(volume.lock)
            sizes = self._known().sizes
            state = self._bound() if begin is None else begin(self._known())
            self.guard.check()
            if state.points and state.points[-1].cycle_id == cycle_id:
                if begin is not None:  # given up as it was taken over
                    self._store(state)
                return state.relation_id
            if state.points and number <= state.points[-1].number:
                raise ProtocolError(f"cycle {number} is older than the newest point")
            for volume in self.volumes:
                volume.datasync()
                for journal in self._open_journals(volume, state):
                    journal.finish()
            state = with_joined(state, number, whole)
            relation_id = self._new_identity()
            journals = self._journals.create(
                state.group_id, state.offers_at(number), relation_id, number
            )
            try:
                point = Point(number, cycle_id, cut_ns, cut_ns, label)
                listed = self._measured(state).with_point(point, relation_id)
                durable = listed.since(self._oldest_retained(listed))
                self._store(durable)
            except BaseException:
                for journal in journals:
                    journal.close()
                raise
            self._open_next(durable, journals)
            older = self.points[: len(self.points) - len(state.points)]
            if sizes != state.sizes:
                older = tuple(sized(point, sizes) for point in older)
            self.listed.replace((*older, *listed.points))
            self._free(durable.points[0].number)
            return relation_id

    def _open_next(self, state: StoreState, journals: Sequence[Journal]) -> None:
        """Show the journals of a new relation, and the sizes that its point has."""
        opened = {journal.header.volume_id: journal for journal in journals}
        for volume, offer in zip(self.volumes, state.volumes, strict=True):
            for finished in volume.journals[-1:]:
                finished.preserved = None
            volume.take_size(offer)
            if offer.volume_id in opened:
                volume.journals = (*volume.journals, opened[offer.volume_id])

    def _measured(self, state: StoreState) -> StoreState:
        """Return the state with the size of the newest point's finished journals.

        The record tells it from then on: nothing is opened to add sizes up.
        """
        if not state.points:
            return state
        size_bytes = sum(
            journal.size_bytes
            for volume in self.volumes
            for journal in self._open_journals(volume, state)
        )
        newest = replace(state.points[-1], journal_bytes=size_bytes)
        return replace(state, points=(*state.points[:-1], newest))

    def _open_journals(
        self, volume: SecondaryVolume, state: StoreState
    ) -> tuple[Journal, ...]:
        """Return a volume's open journal, if there is one: the newest point's."""
        newest = state.points[-1].number if state.points else None
        last = volume.journals[-1:]
        return last if last and last[0].header.point_number == newest else ()

    def _oldest_retained(self, state: StoreState) -> int:
        """Return the number of the oldest point to keep.

        A point needs its own journal and all later ones, so those stay too.
        """
        points = state.points
        if not points:
            return 0
        return min(self.retain(points) | state.kept_numbers | {points[-1].number})

    def _free(self, oldest: int) -> None:
        """Drop points before `oldest` that no pin keeps, and their journals.

        The durable record has let go of them already. A deletion that fails or is
        cut short leaves an orphan for the next start.
        """
        oldest = self.listed.free(oldest)
        for volume in self.volumes:
            journals = volume.journals
            volume.journals = tuple(
                j for j in journals if j.header.point_number >= oldest
            )
            for journal in journals[: len(journals) - len(volume.journals)]:
                volume.leases.retire(partial(self._journals.remove, journal))

    # -- history: see `remote_site.history` for what is to happen when -----------------

    def drop_before(self, number: int, ended: Sequence[int] = ()) -> None:
        """Drop every point older than `number`, whatever rules would keep.

        `ended`: pins that keep nothing any more. Beyond the newest point, of a group
        that was taken over, hosts' writes preserve nothing from then on. Order: the
        record, fdatasync; only then files go. The crash it defends against: a record
        that names what is gone.
        """
        with self._changing, ExitStack() as held:
            state = self._known()
            if state.is_on_its_way_back:
                return
            newest = state.points[-1].number if state.points else 0
            if number > newest:
                assert state.takeover is not None, "the newest point stays"
                for volume in self.volumes:  # nobody appends to what goes
                    held.enter_context(volume.lock)
            shorter = state.since(number)
            if len(shorter.points) < len(state.points):
                self._store(shorter)
            self.listed.end(ended)
            self._free(shorter.points[0].number if shorter.points else number)

    def merge_of(
        self, into: int, victims: Sequence[int]
    ) -> tuple[bytes, list[JournalMerge]] | None:
        """Return the relation and a merge for each volume, that make one point of
        several; None if they do not follow each other (any more)."""
        with self._changing:
            state = self._known()
            if not _can_be_merged(state, into, victims):
                return None
            point = next(p for p in state.points if p.number == into)
            numbers = {into, *victims}
            relation_id = self._new_identity()
            return relation_id, [
                self._journals.merge(
                    volume.offer,
                    point,
                    relation_id,
                    [j for j in volume.journals if j.header.point_number in numbers],
                )
                for index, volume in enumerate(self.volumes)
                if state.has(into, index)
            ]

    def replace_merged(
        self,
        into: int,
        victims: Sequence[int],
        relation_id: bytes,
        journals: Sequence[Journal],
    ) -> bool:
        """Put merged journals in the place of those they were made of.

        Order: the new journals, fdatasynced, and their directory; the record without
        the merged points, which names the new journals, fdatasync; only then readers
        get them, and once the last reader of the old ones has left, those are deleted.
        The crashes it defends against: a point whose journals are nowhere; one that
        shows what a later point overwrote.

        False, and nothing has changed, if one of the points is read or kept meanwhile
        or is not there any more.
        """
        gone = frozenset(victims)
        with self._changing:
            self.guard.check()
            state = self._known()
            with self.listed.leaving(gone) as is_free:
                if not is_free or not _can_be_merged(state, into, victims):
                    return False
                self._journals.sync_names()
                size_bytes = sum(journal.size_bytes for journal in journals)
                self._store(state.without(gone, into, size_bytes, relation_id))
                merged = {p.number: p for p in self._known().points}
                self.listed.replace(
                    [
                        merged.get(point.number, point)
                        for point in self.points
                        if point.number not in gone
                    ]
                )
            by_volume = {journal.header.volume_id: journal for journal in journals}
            for volume in self.volumes:
                merged_here = by_volume.get(volume.offer.volume_id)
                self._swap(volume, into, merged_here, gone)
            return True

    def _swap(
        self,
        volume: SecondaryVolume,
        into: int,
        merged: Journal | None,
        gone: frozenset[int],
    ) -> None:
        """`merged` is None where point `into` does not have the volume: then no point
        needs the journals of those that are gone."""
        old = [
            journal
            for journal in volume.journals
            if journal.header.point_number in gone
            or journal.header.point_number == into
        ]
        volume.journals = tuple(
            merged if merged and journal.header.point_number == into else journal
            for journal in volume.journals
            if journal.header.point_number not in gone
        )
        for journal in old:
            volume.leases.retire(partial(self._journals.remove, journal))

    def keep(self, number: int, *, is_kept: bool) -> bool:
        """Keep a point whatever the rules, durably, or no longer; False: not there."""
        with self._changing:
            state = self._known()
            if all(point.number != number for point in state.points):
                return False
            self._store(state.kept(number, is_kept=is_kept))
            by_number = {point.number: point for point in self._known().points}
            self.listed.replace([by_number.get(p.number, p) for p in self.points])
            return True

    # -- pins --------------------------------------------------------------------------

    @property
    def points(self) -> tuple[Point, ...]:
        """Oldest first; older ones only while retained or pinned."""
        return self.listed.points

    def pin(self, number: int | None) -> int | None:
        """Keep a point (the newest when None) until `unpin`; None if not there."""
        return self.listed.pin(number)

    def unpin(self, number: int) -> None:
        """Let go of a point; the next commit or thinning frees it."""
        self.listed.unpin(number)

    def is_pinned(self, number: int) -> bool:
        return self.listed.is_pinned(number)

    # -- the rest ----------------------------------------------------------------------

    def flush(self) -> int:
        """Make what was applied durable; return the relation's progress count.

        Order: fdatasync of every device written to; then the count in the record,
        fdatasync; only then may it be acknowledged. What it defends against: an older
        copy of this site put back, which lacks what was acknowledged and would go
        unnoticed while its newest point is still the newest.
        """
        self.guard.check()
        for volume in self.volumes:
            volume.datasync()
        with self._changing:
            state = self._bound()
            count = min(state.progress_count + 1, PROGRESS_MAX)
            self._store(replace(state, progress_count=count))
            return self._bound().progress_count

    def point_bytes(self, number: int) -> int:
        """Return the bytes of a point's own journals."""
        for point in self.points:
            if point.number == number and point.journal_bytes:
                return point.journal_bytes
        return sum(
            journal.measure()
            for volume in self.volumes
            for journal in volume.journals
            if journal.header.point_number == number
        )

    def close(self) -> None:
        for volume in self.volumes:
            volume.close()
        self.volumes = ()
        if self._lock_file is not None:
            self._lock_file.close()


def _can_be_merged(state: StoreState, into: int, victims: Sequence[int]) -> bool:
    """Tell whether these still follow `into`, nobody keeps them, and one is newer."""
    numbers = [point.number for point in state.points]
    if state.is_on_its_way_back:
        return False
    if into not in numbers or state.kept_numbers & set(victims):
        return False
    end = numbers.index(into) + 1 + len(victims)
    return numbers[end - 1 - len(victims) : end] == [into, *victims] and end < len(
        numbers
    )
