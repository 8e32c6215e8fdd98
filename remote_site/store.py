"""The remote store of one group, for the event loop.

A shell: the code that touches the disk is synchronous (`group_disk`, `applier`,
`recovery_point`) and runs in threads.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from common.errors import StorageError
from common.ports import Buffer, Files, HostVolume, Threads
from common.replication.lineage import (
    ID_BYTES,
    CycleName,
    ReceiverState,
    SenderState,
)
from common.replication.session_messages import VolumeOffer
from common.replication.tracks import TrackRecord
from common.storage.journal import Journal
from remote_site.applier import apply_tracks
from remote_site.batches import Group
from remote_site.enrolling import change_members
from remote_site.giving_up import (
    Beginning,
    begin_receiving,
    delete_fork,
    told_changes,
)
from remote_site.group_disk import GroupDisk, Retain, StoreSettings, keep_newest
from remote_site.history import History
from remote_site.membership import Change, Membership
from remote_site.recovery_point import PointGoneError, PointImage, PointVolume
from remote_site.secondary import SecondaryVolume
from remote_site.store_state import NO_LINEAGE, KeptFork, Point, Takeover

__all__ = ["GroupStore", "Point", "StoreSettings"]

T = TypeVar("T")


class OpeningPins:
    """What one opening keeps: its point, and once asked for the point before it."""

    def __init__(self, disk: GroupDisk, number: int, before: int | None) -> None:
        self._disk = disk
        self._before = before
        self._held = [number]

    def hold_before(self) -> bool:
        """Pin the point before as well; False if it has gone meanwhile."""
        if self._before is None or self._before in self._held:
            return self._before is not None
        if self._disk.pin(self._before) is None:
            return False
        self._held.append(self._before)
        return True

    def release(self) -> None:
        for number in self._held:
            self._disk.unpin(number)
        self._held = []


class GroupStore:
    """Make one with `open`. Owned by the event loop.

    Cancelling a call does not stop its thread: what it does still takes effect, in
    memory and on disk alike. `settled` waits for all of them.
    """

    def __init__(self, disk: GroupDisk, threads: Threads) -> None:
        self.history = History(disk)
        """What becomes of older points; its calls block: by `run_reader`."""
        self._disk = disk
        self._threads = threads
        self._in_flight = 0
        self._settled: list[asyncio.Future[None]] = []

    @classmethod
    async def open(
        cls,
        files: Files,
        threads: Threads,
        settings: StoreSettings,
        *,
        retain: Retain = keep_newest,
        new_identity: Callable[[], bytes] = lambda: secrets.token_bytes(ID_BYTES),
        settled: Retain | None = None,
    ) -> GroupStore:
        """Recover the group from disk; see `GroupDisk.open` for order and errors."""
        disk = GroupDisk(files, settings, retain, new_identity, settled)
        store = cls(disk, threads)
        await store._run(store._disk.open)
        return store

    # -- what is known -----------------------------------------------------------------

    @property
    def group_id(self) -> bytes | None:
        return self._disk.state.group_id if self._disk.state else None

    @property
    def lineage(self) -> bytes | None:
        return self._disk.state.lineage if self._disk.state else None

    @property
    def peer(self) -> str | None:
        return self._disk.state.peer if self._disk.state else None

    @property
    def epoch(self) -> int:
        """The last session's number; 0 before the first."""
        return self._disk.state.epoch if self._disk.state else 0

    @property
    def relation_id(self) -> bytes:
        """The open relation; acked bits of another one are worthless."""
        return self._disk.state.relation_id if self._disk.state else bytes(ID_BYTES)

    @property
    def judged(self) -> ReceiverState:
        """What a session is judged by; of a group not bound yet, nothing is known."""
        return self._disk.state.judged() if self._disk.state else ReceiverState()

    def judged_for(self, sender: SenderState) -> ReceiverState:
        """Return what a session of this very sender is judged by."""
        state = self._disk.state
        return ReceiverState() if state is None else state.met_by(sender).judged()

    @property
    def receipt(self) -> bytes:
        """What the session that was begun last gives its sender."""
        assert self._disk.state is not None
        return self._disk.state.given

    @property
    def volumes(self) -> tuple[VolumeOffer, ...]:
        """In the order of indexes, those that have left too; empty before `bind`."""
        return self._disk.state.volumes if self._disk.state else ()

    @property
    def current(self) -> tuple[VolumeOffer, ...]:
        """The volumes that the group has now, joining ones among them."""
        return self._disk.state.current if self._disk.state else ()

    @property
    def enrolled(self) -> tuple[tuple[VolumeOffer, Membership], ...]:
        """`volumes`, each with which points have it: both as of one moment.

        A thread may replace the state between two looks at it.
        """
        state = self._disk.state
        if state is None:
            return ()
        return tuple(zip(state.volumes, state.memberships, strict=True))

    def volumes_at(self, number: int) -> list[tuple[int, VolumeOffer]]:
        """Return the volumes, and their indexes, that a point has."""
        return [
            (index, offer)
            for index, (offer, member) in enumerate(self.enrolled)
            if member.has(number)
        ]

    @property
    def points(self) -> list[Point]:
        """Oldest first; older ones only while retained or pinned."""
        return list(self._disk.points)

    @property
    def takeover(self) -> Takeover | None:
        """Set, durably, once this site has decided to take over."""
        return self._disk.state.takeover if self._disk.state else None

    @property
    def disk(self) -> GroupDisk:
        """For jobs of `run_job`."""
        return self._disk

    @property
    def failed(self) -> StorageError | None:
        """The flush that failed: nothing is acknowledged from then on (I9)."""
        return self._disk.guard.failed

    @property
    def in_flight(self) -> int:
        """Calls whose thread has not returned, whatever became of the caller."""
        return self._in_flight

    # -- the session -------------------------------------------------------------------

    async def bind(
        self,
        *,
        group_id: bytes,
        lineage: bytes,
        peer: str,
        volumes: tuple[VolumeOffer, ...],
    ) -> None:
        """Tie the group to its sender at the first hello, durably.

        Absent devices are made sparse with the sender's size. The same arguments
        again change nothing; others raise `StateMismatchError`, and a device of
        another size `DeviceError`, each naming file, key and remedy.
        """
        await self._run(
            partial(self._disk.bind, group_id, lineage, peer, tuple(volumes))
        )

    async def change_members(self, volumes: tuple[VolumeOffer, ...]) -> Change:
        """Have the volumes that the sender has, durably; see `enrolling`."""
        return await self._run(partial(change_members, self._disk, volumes))

    async def new_epoch(self, sender: SenderState) -> int:
        """Return the number of a new session; durable before it is returned.

        `sender` is what its HELLO showed; `receipt` is then what to give it.
        """
        return await self._run(partial(self._disk.new_epoch, sender))

    async def begin_cycle(self, cycle: CycleName) -> None:
        """Record a cycle, durably, before any track of it may be applied."""
        await self._run(partial(self._disk.begin_cycle, cycle))

    async def grow(self, volume: int, from_bytes: int, size_bytes: int) -> None:
        """Make a volume larger, durably, between cycles; see `GroupDisk.grow`."""
        await self._run(partial(self._disk.grow, volume, from_bytes, size_bytes))

    async def note(self, cycle_id: bytes | None) -> None:
        """Record, durably, that the sender knows of this session and this point."""
        await self._run(partial(self._disk.note, cycle_id))

    async def apply(
        self, volume: int, records: Sequence[TrackRecord]
    ) -> list[tuple[int, int]]:
        """Preserve, then overwrite (see `apply_tracks`); durable after `flush`.

        Returns the runs that were not applied, for they lack their base here.

        One call a volume at a time, in order: later records win. Raises
        `StorageError`; where `is_out_of_space`, the newest point is as it was and
        the same call may be repeated.
        """
        return await self._run(partial(self._apply, volume, records))

    async def apply_decoded(
        self, volume: int, decode: Callable[[], list[Group]]
    ) -> tuple[list[Group], list[tuple[int, int]]]:
        """Decode frames and apply the first group of what they hold, in one hop.

        Returns all groups, of which the others are for `apply`, and what `apply`
        returns of the first. Raises what `decode` raises: then nothing was applied.
        """

        def decoded() -> tuple[list[Group], list[tuple[int, int]]]:
            groups = decode()
            return groups, self._apply(volume, groups[0].records)

        return await self._run(decoded)

    def _apply(
        self, volume: int, records: Sequence[TrackRecord]
    ) -> list[tuple[int, int]]:
        self.history.check_room()
        return apply_tracks(self._disk.volumes[volume], records)

    async def differing(
        self, volume: int, first: int, count: int, hashes: Buffer
    ) -> list[tuple[int, int]]:
        """Return runs (first, count) whose BLAKE2b-128 a track is not in `hashes`.

        Tracks that are equal may still lack a `flush`.
        """
        secondary = self._disk.volumes[volume]
        return await self._run(partial(secondary.differing, first, count, hashes))

    async def flush(self) -> int:
        """Make every returned `apply` durable; then it may be acknowledged.

        Returns the count that the acknowledgement has to name.
        """
        return await self._run(self._disk.flush)

    async def commit(
        self,
        *,
        number: int,
        cycle_id: bytes,
        cut_ns: int,
        label: str | None,
        whole: frozenset[int] = frozenset(),
    ) -> bytes:
        """Commit a point of all volumes; see `GroupDisk.commit_point` for the order.

        Of those that are joining only the ones in `whole`, whose copy is complete.

        Every track of the cycle has been applied. Returns the new relation's id;
        the newest point's `cycle_id` again changes nothing. After a `StorageError`
        without `failed` the call may be repeated.
        """
        return await self._run(
            partial(
                self._disk.commit_point,
                number,
                cycle_id,
                cut_ns,
                label,
                whole=whole,
            )
        )

    async def advance_current(self, number: int, time_ns: int) -> None:
        """Record durably that the newest point equals the primary at `time_ns`."""
        await self._run(partial(self._disk.advance_current, number, time_ns))

    async def settled(self) -> None:
        """Wait until no call's thread runs: nothing old takes effect later (I8)."""
        while self._in_flight:
            future = asyncio.get_running_loop().create_future()
            self._settled.append(future)
            await future

    # -- roles that change -------------------------------------------------------------

    @property
    def is_divided(self) -> bool:
        """The devices hold what this site wrote itself, and no cycle since."""
        return self._disk.state is not None and self._disk.state.is_divided

    @property
    def has_taken_common(self) -> bool:
        """It has taken over from a point that its sender may have."""
        return self._disk.state is not None and self._disk.state.has_taken_common

    @property
    def is_ready(self) -> bool:
        """It may receive: bound to nobody yet, or whole; see `begin_receiving`."""
        state = self._disk.state
        return state is None or state.lineage != NO_LINEAGE

    @property
    def forks(self) -> tuple[KeptFork, ...]:
        """What was given up and is kept, oldest first."""
        return self._disk.state.forks if self._disk.state else ()

    async def begin_receiving(self, beginning: Beginning) -> None:
        """Receive from another line of data; see `giving_up.begin_receiving`."""
        await self._run(partial(begin_receiving, self._disk, beginning))

    async def delete_fork(self, number: int) -> None:
        """Have a fork kept no longer, durably. Raises `RefusedError`."""
        await self._run(partial(delete_fork, self._disk, number))

    async def told_changes(
        self, volume: int, first: int
    ) -> tuple[tuple[tuple[int, int], ...], int]:
        """Return (runs, end): what this site has changed itself, from `first` on."""
        return await self._run(partial(told_changes, self._disk, volume, first))

    # -- points ------------------------------------------------------------------------

    def open_point(
        self, volume_name: str, number: int | None = None
    ) -> HostVolume | None:
        """Return a point (the newest when None) to be read, pinned until `release`.

        None when there is no such volume or point.
        """
        for volume in self._disk.volumes:
            if volume.offer.name == volume_name:
                pinned = self._disk.pin(number)
                if pinned is None:
                    return None
                held = {journal.header.point_number for journal in volume.journals}
                earlier = [
                    p.number
                    for p in self._disk.points
                    if p.number < pinned and p.number in held
                ]
                before = earlier[-1] if earlier else None
                name = f"{self._disk.settings.group}/{volume_name}@{pinned}"
                try:
                    image = PointImage(volume, pinned, before)
                except PointGoneError:  # taken by the budget, or without the volume
                    self._disk.unpin(pinned)
                    return None
                return PointVolume(
                    image,
                    name if before is None else f"{name}, changes since @{before}",
                    self._threads,
                    OpeningPins(self._disk, pinned, before),
                )
        return None

    def pin(self, number: int | None) -> int | None:
        """Keep a point (the newest when None) until `unpin`; None if not there."""
        return self._disk.pin(number)

    def pin_cycle(self, cycle_id: bytes) -> int | None:
        """Keep the point of this cycle until `unpin`; its number, None if gone."""
        for point in self._disk.points:
            if point.cycle_id == cycle_id:
                return self._disk.pin(point.number)
        return None

    def unpin(self, number: int) -> None:
        """Let go of a point."""
        self._disk.unpin(number)

    async def keep(self, number: int, *, is_kept: bool) -> bool:
        """Keep a point whatever the rules, durably, or no longer; False: not there."""
        return await self._run(partial(self._disk.keep, number, is_kept=is_kept))

    def image(self, volume: int, number: int) -> PointImage:
        """Return a volume as at a pinned point, for `run_reader` to read once."""
        return PointImage(self._disk.volumes[volume], number, once=True)

    @property
    def secondaries(self) -> tuple[SecondaryVolume, ...]:
        """The volumes, for what only reads them, by `run_reader`."""
        return self._disk.volumes

    @property
    def members(self) -> tuple[SecondaryVolume, ...]:
        """Those of them that the group has now."""
        return self._disk.members

    def journals_of(self, number: int) -> list[Journal]:
        """Return the journals of a pinned point, one a volume."""
        return [
            journal
            for volume in self._disk.volumes
            for journal in volume.journals
            if journal.header.point_number == number
        ]

    async def run_reader(self, job: Callable[[], T]) -> T:
        """Run what only reads in a thread; `settled` waits for it."""
        return await self._run(job)

    @property
    def journal_bytes(self) -> int:
        """The bytes of all journals kept."""
        return sum(
            journal.size_bytes
            for volume in self._disk.volumes
            for journal in volume.journals
        )

    def point_bytes(self, number: int) -> int:
        """Return the bytes of journal that a point costs."""
        return self._disk.point_bytes(number)

    def is_pinned(self, number: int) -> bool:
        """Tell whether somebody reads this point, or it is kept whatever the rules."""
        state = self._disk.state
        is_kept = state is not None and number in state.kept_numbers
        return is_kept or self._disk.is_pinned(number)

    async def run_job(self, job: Callable[[], T]) -> T:
        """Run in a thread what changes the group otherwise than by its session."""
        return await self._run(job)

    async def close(self) -> None:
        """Stop cleanly: wait for every thread, then let go of all files."""
        await self.settled()
        await self._run(self._disk.close)

    async def _run(self, job: Callable[[], T]) -> T:
        """Run a job in a thread, in flight until the thread has returned."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            self._in_flight -= 1
            if not self._in_flight:
                waiting, self._settled = self._settled, []
                for waiter in waiting:
                    if not waiter.done():
                        waiter.set_result(None)
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        self._in_flight += 1
        self._threads.submit(job, done)
        return await future
