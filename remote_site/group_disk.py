"""A group's storage at the remote: devices, journals, and the one record.

Synchronous; everything may block and runs in threads. What readers on the loop
look at (`state`, `points`, `volumes`, a volume's `journals`) is replaced as a
whole, and only once it is durable.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from common.errors import ProtocolError
from common.ports import File, Files
from common.replication.cycle_messages import PROGRESS_MAX
from common.replication.lineage import ID_BYTES, CycleName, SenderState
from common.replication.session_messages import VolumeOffer
from common.storage.flush_guard import FlushGuard
from common.storage.journal import Journal
from remote_site.group_journals import GroupJournals
from remote_site.group_record import GroupRecord
from remote_site.growing import check_growth, extend_device
from remote_site.listed_points import ListedPoints
from remote_site.member_transitions import settled, with_joined
from remote_site.point_merges import PointMerges
from remote_site.secondary import SecondaryVolume
from remote_site.secondary_device import make_devices
from remote_site.secondary_opening import open_volumes
from remote_site.store_checks import check_bound, check_offer, check_settings
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
        self.listed = ListedPoints()
        self.volumes: tuple[SecondaryVolume, ...] = ()
        self.files = files
        self.new_identity = new_identity
        self.record = GroupRecord(files, settings.state_directory, self.guard)
        self.journals = GroupJournals(files, settings.journal_directory, self.guard)
        self.merges = PointMerges(self)
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
        files, settings = self.files, self.settings
        files.make_directory(settings.state_directory)
        with ExitStack() as undo:
            lock_path = f"{settings.state_directory}/{LOCK_NAME}"
            lock = files.open(lock_path, create=True, lock=True)
            undo.callback(lock.close)
            state = self.record.load()
            if state is not None:
                check_settings(
                    state,
                    settings.group,
                    settings.devices,
                    settings.peer,
                    self.record.path,
                )
            files.make_directory(settings.journal_directory)
            if state is not None:
                if state.takeover is None:  # else the way back may need them all
                    state = state.since(self._oldest_retained(state))
                if not state.is_on_its_way_back:
                    state = settled(state)
                volumes = open_volumes(files, settings.devices, state, self.guard, undo)
                self.journals.attach(state, volumes, undo, self.record.path)
                self.record.store(state)
                self.volumes = volumes
                self.listed.replace(state.points)
                self.journals.remove_orphans(state)
                self.record.remove_orphans()
            undo.pop_all()
        self._lock_file = lock

    # -- the record --------------------------------------------------------------------

    @property
    def state(self) -> StoreState | None:
        """What is durable; None while the group is not bound."""
        return self.record.state

    @property
    def members(self) -> tuple[SecondaryVolume, ...]:
        """Those of `volumes` that the group has now."""
        return tuple(
            volume
            for volume, member in zip(
                self.volumes, self.record.known().memberships, strict=True
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
        with self.record.lock:
            self.record.store(change(self.record.known()))
            return self.record.known()

    def replace_volumes(
        self,
        change: Callable[[StoreState], StoreState],
        opened: Sequence[SecondaryVolume] = (),
    ) -> None:
        """Make `change(state)` durable, which has other volumes, then visible.

        `opened`: those that are new. Devices of those that are gone are closed; nobody
        reads them, for no point has them. No session is open.
        """
        with self.record.lock:
            self.guard.check()
            self.record.store(change(self.record.known()))
            known = {v.offer.volume_id: v for v in (*self.volumes, *opened)}
            named = [offer.volume_id for offer in self.record.known().volumes]
            gone = [v for v in self.volumes if v.offer.volume_id not in named]
            self.volumes = tuple(known[volume_id] for volume_id in named)
            by_number = {point.number: point for point in self.record.known().points}
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
        with self.record.lock:
            self.guard.check()
            if self.state is not None:
                check_bound(
                    self.state, group_id, lineage, peer, volumes, self.record.path
                )
                return
            check_offer(self.settings.group, volumes, self.settings.devices)
            key = f"group {self.settings.group!r}"
            with ExitStack() as undo:
                devices, created = make_devices(
                    self.files,
                    self.settings.devices,
                    key,
                    volumes,
                    self.settings.accept_existing,
                    self.guard,
                    undo,
                )
                self.record.store(
                    StoreState(
                        group=self.settings.group,
                        group_id=group_id,
                        lineage=lineage,
                        peer=peer,
                        epoch=0,
                        relation_id=self.new_identity(),
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
        with self.record.lock:
            self.record.store(self.record.bound().met(sender, self.new_identity()))
            return self.record.bound().epoch

    def begin_cycle(self, cycle: CycleName) -> None:
        """Record that tracks of this cycle may be applied from now on.

        Order: the record, fdatasync; only then the first track. The crash it defends
        against: a sender whose state is older than what was applied here, and which
        does not know what it must send again.
        """
        with self.record.lock:
            state = self.record.bound().heard()
            begun = state.begun
            if begun is not None and begun != cycle and begun.number >= cycle.number:
                raise ProtocolError(
                    f"cycle {cycle.number} begins after cycle {begun.number}"
                )
            state = replace(state, begun=cycle)
            if state != self.state:
                self.record.store(state)

    def note(self, cycle_id: bytes | None) -> None:
        """Record that the sender has recorded this session, and the newest point."""
        with self.record.lock:
            state = self.record.bound()
            newest = state.committed
            if cycle_id == (None if newest is None else newest.cycle_id):
                state = state.heard()
            if state != self.state:
                self.record.store(state)

    def advance_current(self, number: int, time_ns: int) -> None:
        """Move the newest point's time forward, durably; backwards is ignored."""
        with self.record.lock:
            state = self.record.bound().heard()
            if not state.points or state.points[-1].number != number:
                raise ProtocolError(f"point {number} is not the newest")
            self.make_current(state, time_ns)

    def make_current(self, state: StoreState, time_ns: int) -> None:
        """Store `state`, with its newest point's time moved forward, if it moves."""
        newest = state.points[-1]
        if time_ns > newest.current_as_of_ns:
            newest = replace(newest, current_as_of_ns=time_ns)
            self.record.store(replace(state, points=(*state.points[:-1], newest)))
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
        with self.record.lock:
            self.guard.check()
            state = self.record.bound()
            if not check_growth(state, index, from_bytes, size_bytes, self.record.path):
                return
            volume = self.volumes[index]
            self.record.store(state.will_grow(index, size_bytes))
            before = volume.offer
            extend_device(
                volume.device, before.size_bytes, size_bytes, self.guard, before.name
            )
            with volume.lock:
                state = self.record.bound()
                self.record.store(state.grown(index, size_bytes))
                self.listed.replace([sized(p, state.sizes) for p in self.points])
                volume.take_size(self.record.bound().volumes[index])

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
        with self.record.lock, ExitStack() as held:
            for volume in self.volumes:
                held.enter_context(volume.lock)
            sizes = self.record.known().sizes
            state = self.record.bound() if begin is None else begin(self.record.known())
            self.guard.check()
            if state.points and state.points[-1].cycle_id == cycle_id:
                if begin is not None:  # given up as it was taken over
                    self.record.store(state)
                return state.relation_id
            if state.points and number <= state.points[-1].number:
                raise ProtocolError(f"cycle {number} is older than the newest point")
            for volume in self.volumes:
                volume.datasync()
                for journal in self._open_journals(volume, state):
                    journal.finish()
            state = with_joined(state, number, whole)
            relation_id = self.new_identity()
            journals = self.journals.create(
                state.group_id, state.offers_at(number), relation_id, number
            )
            try:
                point = Point(number, cycle_id, cut_ns, cut_ns, label)
                listed = self._measured(state).with_point(point, relation_id)
                durable = listed.since(self._oldest_retained(listed))
                self.record.store(durable)
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
                volume.leases.retire(partial(self.journals.remove, journal))

    # -- history: see `remote_site.history` for what is to happen when -----------------

    def drop_before(self, number: int, ended: Sequence[int] = ()) -> None:
        """Drop every point older than `number`, whatever rules would keep.

        `ended`: pins that keep nothing any more. Beyond the newest point, of a group
        that was taken over, hosts' writes preserve nothing from then on. Order: the
        record, fdatasync; only then files go. The crash it defends against: a record
        that names what is gone.
        """
        with self.record.lock, ExitStack() as held:
            state = self.record.known()
            if state.is_on_its_way_back:
                return
            newest = state.points[-1].number if state.points else 0
            if number > newest:
                assert state.takeover is not None, "the newest point stays"
                for volume in self.volumes:  # nobody appends to what goes
                    held.enter_context(volume.lock)
            shorter = state.since(number)
            if len(shorter.points) < len(state.points):
                self.record.store(shorter)
            self.listed.end(ended)
            self._free(shorter.points[0].number if shorter.points else number)

    def keep(self, number: int, *, is_kept: bool) -> bool:
        """Keep a point whatever the rules, durably, or no longer; False: not there."""
        with self.record.lock:
            state = self.record.known()
            if all(point.number != number for point in state.points):
                return False
            self.record.store(state.kept(number, is_kept=is_kept))
            by_number = {point.number: point for point in self.record.known().points}
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
        with self.record.lock:
            state = self.record.bound()
            count = min(state.progress_count + 1, PROGRESS_MAX)
            self.record.store(replace(state, progress_count=count))
            return self.record.bound().progress_count

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
