"""A consistency group at the sending site: its volumes, the cut, the destage.

The cut is one instant for all volumes, because they share one gate. Within the
hold only pointers are swapped: unions, clearing and writing happen outside, so
the hold's length does not depend on the size of a volume.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from common.errors import FarshoreError, StorageError
from common.ports import Clock, FileIdentity, Files, Threads
from common.replication.lineage import SenderState
from common.service.config_primary import PrimaryGroup
from common.service.histogram import HOLD_BOUNDS_SECONDS, Histogram
from common.storage.bitmap import Bitmap
from primary_site.background import to_its_end
from primary_site.changes import unite
from primary_site.gate import Gate
from primary_site.group_state import COMPLETING, GroupState, to_record
from primary_site.joining import PART_BYTES_FIRST, all_joined, all_taken, next_part
from primary_site.opening import OpenedGroup, OpenedVolume
from primary_site.remote_relation import RemoteRelation
from primary_site.upkeep import Upkeep
from primary_site.volume import PrimaryVolume
from primary_site.volume_making import made_volume

HOLD_BACKOFF_SECONDS = 0.05
"""Between two tries to quiesce: hosts get at least this share of the time."""


class CutStarvedError(FarshoreError):
    """Writes in flight did not end within `hold_max`, `hold_retries` times over."""

    exit_code = 9
    alarm = "cut_starved"


class CutImpossibleError(FarshoreError):
    """No FlashCopy can be established now: no room, or a volume has failed."""

    exit_code = 9
    alarm = "flashcopy_unavailable"


@dataclass(frozen=True, slots=True)
class Cut:
    """The instant between two cycles. Times: `cut_ns` wall, `hold_seconds` length."""

    number: int
    cycle_id: bytes
    cut_ns: int
    hold_seconds: float
    label: str | None


class ConsistencyGroup:
    """Volumes that are cut together; owned by the event loop."""

    def __init__(
        self,
        config: PrimaryGroup,
        opened: OpenedGroup,
        files: Files,
        make_threads: Callable[[str], Threads],
        state_threads: Threads,
        clock: Clock,
    ) -> None:
        self.config = config
        self.name = config.name
        self.state: GroupState = opened.state
        self.gate = Gate()
        self.holds = Histogram(HOLD_BOUNDS_SECONDS)
        """How long cuts held host writes, those that were given up included."""
        self.cut: Cut | None = None
        """The cycle not yet complete, or None."""
        self.failed: StorageError | None = None
        self.when_failed: Callable[[StorageError], None] = lambda _error: None
        """Called once, with what the first volume failed of."""
        self.upkeep = Upkeep(self)
        self.remote_relation = RemoteRelation(self)
        self._record = opened.record
        self._threads = state_threads
        self._clock = clock
        self._record_lock = asyncio.Lock()
        self.files = files
        self.state_threads = state_threads
        self._make_threads = make_threads
        self.part_bytes: int | None = PART_BYTES_FIRST
        """Of what is held back of a joining volume, what the next cut takes; None: all
        of it."""
        hot = {volume.name: volume.hot_regions_max for volume in config.volumes}
        self.volumes = [
            self.make_volume(volume, hot[volume.name]) for volume in opened.volumes
        ]
        """Replaced as a whole, between two cycles, when one is added or removed."""

    def make_volume(self, opened: OpenedVolume, hot_regions_max: int) -> PrimaryVolume:
        """Return a volume of this group's; the record knows it."""

        def failed(error: StorageError) -> None:
            if opened.name in self.state.volumes:  # else it has left
                self.volume_failed(error)

        return made_volume(
            opened,
            gate=self.gate,
            state=self.state,
            files=self.files,
            threads=self._make_threads(f"{self.name}/{opened.name}"),
            clock=self._clock,
            targets=f"{self.config.flashcopy.directory}/{self.name}",
            hot_regions_max=hot_regions_max,
            failed=failed,
        )

    def volume_failed(self, error: StorageError) -> None:
        """Fail-stop of one volume is that of its group: no cut of the rest counts."""
        is_first, self.failed = self.failed is None, self.failed or error
        for volume in self.volumes:
            volume.fail(error)
        if is_first:
            self.when_failed(error)

    # -- the cut -----------------------------------------------------------------------

    def has_changed(self) -> bool:
        return any(volume.changes.has_changed() for volume in self.volumes)

    async def make_cut(self, label: str | None) -> Cut:
        """Cut all volumes at one instant; the cycle is then `self.cut`.

        Staggering: the caller has completed or abandoned the previous cycle.
        Raises `CutStarvedError`, `CutImpossibleError`; then nothing has changed.
        """
        assert self.cut is None, "staggering: the previous cycle is not complete"
        number = self.state.cycle_number + 1
        await self.prepare_cut()
        await self._take_parts()
        for attempt in range(self.config.hold_retries + 1):
            if attempt:
                await asyncio.sleep(HOLD_BACKOFF_SECONDS)
            fresh = [Bitmap(v.geometry.track_count) for v in self.volumes]
            cut = await self._hold(number, fresh, label)
            if cut is not None:
                self.cut = cut
                return cut
        raise CutStarvedError(
            f"group {self.name}: host writes in flight did not end within hold_max "
            f"({self.config.hold_max_seconds:g} s) in "
            f"{self.config.hold_retries + 1} tries; raise hold_max, or see the device"
        )

    # -- volumes that come and leave ---------------------------------------------------

    def come(self, volume: PrimaryVolume) -> None:
        """Have a volume in every cut from the next one on. Between two cycles."""
        assert self.cut is None, "a cut has one set of volumes"
        self.volumes = [*self.volumes, volume]

    def leave(self, volume: PrimaryVolume) -> None:
        """Have a volume in no cut any more. Between two cycles."""
        assert self.cut is None, "a cut has one set of volumes"
        self.volumes = [each for each in self.volumes if each is not volume]

    async def let_go(self, volume: PrimaryVolume) -> None:
        """Close a volume that has left."""
        async with self.upkeep.lock:  # which may be at it
            await volume.close()

    async def prepare_cut(self) -> None:
        """Do beforehand what a cut would wait for, so that it is soon made."""
        await asyncio.gather(*(v.preserver.prepare() for v in self.volumes))
        for volume in self.volumes:
            if self.failed is not None or volume.preserver.error:
                why = self.failed or volume.preserver.error
                raise CutImpossibleError(f"{self.name}/{volume.name}: {why}")

    async def _take_parts(self) -> None:
        """Have the cut take a part of what is held back of joining volumes."""
        for volume in self.volumes:
            held_back = volume.changes.held_back
            if held_back is None:
                continue
            limit = self.part_bytes or volume.size_bytes
            part, rest = await volume.threads.run(
                next_part, held_back, volume.geometry, volume.device, limit
            )
            volume.changes.take_part(part, rest)

    @property
    def is_copying(self) -> bool:
        """A volume is joining of which something is held back."""
        return any(volume.changes.held_back is not None for volume in self.volumes)

    def whole_volumes(self) -> list[int]:
        """Return the indexes of joining volumes whose copy the cut completes."""
        return [
            index
            for index, volume in enumerate(self.volumes)
            if self.state.volumes[volume.name].joining == COMPLETING
        ]

    async def _hold(
        self, number: int, fresh: list[Bitmap], label: str | None
    ) -> Cut | None:
        """Hold, quiesce, transfer, establish, release; None if not quiet in time.

        All of it but the quiesce is one synchronous step, taken by whichever write
        leaves last: no write can fall between two bitmaps (I4), and no volume is
        released before all have been cut (I5).
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Cut | None] = loop.create_future()
        cycle_id = secrets.token_bytes(16)
        began = self._clock.monotonic()

        def transfer() -> None:
            timer.cancel()
            held_cycle = self.remote_relation.held_cycle()
            cut_ns = self._clock.now_ns()
            for volume, bitmap in zip(self.volumes, fresh, strict=True):
                marked = volume.changes.flashcopy.bitmap
                relation = volume.preserver.establish(number, marked, held_cycle)
                volume.changes.transfer(relation, bitmap)
            held = self._clock.monotonic() - began
            self.gate.release()
            ended.set_result(Cut(number, cycle_id, cut_ns, held, label))

        def give_up() -> None:
            self.gate.release()
            ended.set_result(None)

        timer = loop.call_later(self.config.hold_max_seconds, give_up)
        self.gate.hold(transfer)
        cut = await ended
        self.holds.observe(cut.hold_seconds if cut else self.config.hold_max_seconds)
        return cut

    async def settle_cut(self) -> None:
        """Unite the parts of the transfer, and make the cycle's number durable.

        Order: the record with the number and id, fdatasync; only then may the
        peer hear of them. The same record says of which joining volumes all is in the
        cycle. The crashes it defends against: a number used twice for two different
        cuts; a point that has a volume of which something is held back afterwards.
        """
        cut = self.cut
        assert cut is not None
        for volume in self.volumes:
            transfer = volume.changes.transferred
            if transfer is None:
                continue  # settled before the last session was lost
            pprc, acked = await volume.threads.run(
                unite, transfer, volume.changes.acked
            )
            volume.changes.settle(pprc, acked)
        taken = [v.name for v in self.volumes if v.changes.held_back is None]

        def settled(state: GroupState) -> GroupState:
            begun = replace(state, cycle_number=cut.number, cycle_id=cut.cycle_id)
            return all_taken(begun, taken)

        await self.change(settled)

    async def destage(self) -> None:
        """Make every write before the cut safe at this site.

        Order: an fdatasync of every device, begun after the cut; only then may
        the remote be told to commit. The crash it defends against: a power loss
        here after the commit there, by which the remote would hold what the
        primary has lost. A failure fail-stops the group (I9).
        """
        await asyncio.gather(*(volume.flush() for volume in self.volumes))

    async def complete_cycle(self, relation_id: bytes) -> None:
        """The remote has committed the point, durably, and opened a new relation.

        Order: the record names the point, durably; only then do its tracks leave
        the bitmaps. The crash it defends against: durable bitmaps relative to a
        point that no record here knows of. Cut short in between, the next session
        finds the point committed and completes the cycle again.
        """
        cut = self.cut
        assert cut is not None
        await self.change(
            lambda state: replace(
                all_joined(state),
                committed_number=cut.number,
                committed_cycle_id=cut.cycle_id,
                committed_cut_ns=cut.cut_ns,
                committed_label=cut.label,
                current_as_of_ns=cut.cut_ns,
                relation_id=relation_id,
                acked_tag=relation_id,
            )
        )
        assert self.cut is cut
        for volume in self.volumes:
            volume.changes.complete()
        self.remote_relation.tag_acked(relation_id)
        for volume in self.volumes:
            volume.preserver.drop_base()
        self.remote_relation.opened(cut.number, relation_id)
        self.cut = None

    def abandon_cycle(self) -> None:
        """Give the cycle up: its tracks join carried, its relation is withdrawn."""
        cut = self.cut
        assert cut is not None
        for volume in self.volumes:
            volume.changes.abandon()
            volume.preserver.drop_base()
        # Its number is spent, were it abandoned before it became durable.
        self.state = replace(self.state, cycle_number=cut.number, cycle_id=cut.cycle_id)
        self.cut = None
        self.withdraw()

    def withdraw(self) -> None:
        """End the FlashCopy relations: marking goes on, preserving stops."""
        for volume in self.volumes:
            volume.changes.flashcopy.withdraw()
            volume.preserver.withdraw()

    def invalidate(self, why: str) -> None:
        """Have the cycle under way, if there is one, given up at its next read."""
        for volume in self.volumes:
            relation = volume.changes.flashcopy.relation
            if self.cut is not None and relation is not None:
                relation.invalidate(why)

    async def discard_targets(self) -> None:
        """Give the room of ended relations back."""
        await asyncio.gather(*(v.preserver.discard() for v in self.volumes))

    def why_invalid(self) -> str:
        """Return why a relation of this cycle ended; empty while all are valid."""
        for volume in self.volumes:
            relation = volume.changes.flashcopy.relation
            if relation is None:
                return f"{volume.name}: withdrawn"
            if not relation.valid:
                return f"{volume.name}: {relation.why_invalid}"
        return ""

    # -- durable state ---------------------------------------------------------------

    async def update(self, **fields: Any) -> None:
        """Replace fields of the durable state; visible here only once durable."""
        await self.change(lambda state: replace(state, **fields))

    async def change(self, change: Callable[[GroupState], GroupState]) -> None:
        """Make `change(state)` durable; it is visible here only afterwards.

        The state is looked at when its turn comes: two who change it at once (a
        cycle that commits, an operator who suspends) must not undo each other. Once
        begun it goes on to its end: a second store beside a thread that writes on
        would write the same slot.
        """
        await to_its_end(self._change(change))

    async def _change(self, change: Callable[[GroupState], GroupState]) -> None:
        async with self._record_lock:
            record = to_record(change(self.state))
            try:
                await self._threads.run(self._record.store, record)
            except StorageError as error:
                # No later store succeeds, so no cycle ends: say so at once, also
                # where an operator's command met it and no cycle is under way.
                if self.failed is None:
                    self.failed = error
                    self.when_failed(error)
                raise
            self.state = change(self.state)

    # -- lineage ---------------------------------------------------------------------

    def judged(self) -> SenderState:
        """Return what the remote judges this site by."""
        return self.state.judged(self.remote_relation.progress_count())

    async def record_session(self, epoch: int, receipt: bytes) -> None:
        """Record a session, durably, before anything is said in it."""
        await self.update(epoch=epoch, receipt=receipt)

    async def note_committed(
        self, number: int, cycle_id: bytes, cut_ns: int, as_of_ns: int
    ) -> None:
        """Record a commit whose answer was lost in a crash of this side."""
        await self.change(
            lambda state: replace(
                all_joined(state),
                committed_number=number,
                committed_cycle_id=cycle_id,
                committed_cut_ns=cut_ns,
                committed_label=None,
                current_as_of_ns=as_of_ns,
            )
        )

    def is_whole(self) -> bool:
        """Tell whether a restart now would have to send or compare a whole volume."""
        return any(
            volume.full or volume.carried_from_bytes is not None
            for volume in self.state.volumes.values()
        )

    async def close(self) -> None:
        """Stop cleanly: hosts are gone. What is durable then is recorded as such.

        Order: regions cooled (device, then bitmaps durable), the region log empty,
        then `clean` with each device's identity. A failed group is never clean.
        """
        if self.cut is not None:
            self.abandon_cycle()
        self.withdraw()
        if self.failed is None:
            try:
                await self._record_clean()
            except StorageError as error:
                self.volume_failed(error)
        for volume in self.volumes:
            await volume.close()

    async def _record_clean(self) -> None:
        identities: dict[str, FileIdentity] = {}
        for volume in self.volumes:
            await volume.heat.cool_idle(all_regions=True)
            await self.upkeep.end_full(volume)
            await volume.flush()
            identities[volume.name] = await volume.threads.run(volume.device.identity)

        def stopped(state: GroupState) -> GroupState:
            for name, identity in identities.items():
                saved = replace(state.volumes[name], identity=identity)
                state = state.with_volume(name, saved)
            return replace(state, clean=True)

        await self.change(stopped)
