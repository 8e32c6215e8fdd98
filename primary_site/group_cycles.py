"""The cycles of one group: wait until a cut is due, cut, drain, commit, or give up.

Every turn derives what to do from what is observed; a cycle outlives sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from common.errors import ProtocolError, StorageError
from common.ports import Clock
from common.replication.cycle_messages import Abandon
from common.replication.features import DELTA, MEMBERS, REFERENCE
from common.replication.lineage import NO_ID
from common.replication.member_messages import Whole
from common.replication.session_messages import Noted, Welcome
from common.service.config_primary import PrimaryGroup
from common.service.cycle_trace import Trace, no_trace
from primary_site.alarms import Alarms
from primary_site.autopilot import look_seconds
from primary_site.background import retrieve
from primary_site.compression import Compression
from primary_site.cut_hooks import CutHooks, HookFailedError
from primary_site.cut_reader import RelationEndedError
from primary_site.cycle_figures import (
    LastCycle,
    changed_bytes,
    cycle_bytes,
    log_commit,
)
from primary_site.cycle_totals import CycleTotals
from primary_site.cycle_trace import given_up_trace, sent_trace
from primary_site.drain import WORKERS, CycleDrain
from primary_site.drain_waits import Stage
from primary_site.group import (
    ConsistencyGroup,
    Cut,
    CutImpossibleError,
    CutStarvedError,
)
from primary_site.growing import check_volumes, tell_sizes
from primary_site.joining import PART_BYTES_FIRST, part_bytes
from primary_site.likeness import Habit
from primary_site.reconciling import reconcile
from primary_site.reshaping import Reshaping
from primary_site.rpo_keeper import keeper_for
from primary_site.session import SendingSession
from primary_site.tickets import CutTickets
from primary_site.trigger import Observed, Schedule, seconds_to_cut

RETRY_SECONDS = 1.0
"""After a cut that could not be made, or a cycle given up here."""

RETRY_SECONDS_MAX = 30.0
"""Each cycle in a row that was given up doubles the pause, up to this."""

POLL_SECONDS = 0.2
"""How often the changed bytes are compared with the `changed` trigger."""

LOOK_AGAIN_SECONDS_MAX = 3600.0

log = structlog.get_logger()


class GroupCycles:
    """One after the other, over whatever session there is."""

    def __init__(
        self, group: ConsistencyGroup, tickets: CutTickets, alarms: Alarms, clock: Clock
    ) -> None:
        self.group = group
        self.tickets = tickets
        self.alarms = alarms
        self.last_cycle: LastCycle | None = None
        self.totals = CycleTotals()
        self.drain: CycleDrain | None = None
        self.drain_began = 0.0
        self.carries_told = False
        """The next cycle, or this one, carries what the remote had changed itself."""
        self.wake = asyncio.Event()
        """Set when there may be something to do: a cut was asked for, say."""
        self.tend_soon = asyncio.Event()
        """Set when making bitmaps durable now would spare a restart much."""
        self.trace: Trace = no_trace
        """Told of each cycle that ends, committed or given up."""
        self.is_stopping = False
        self.when_moved_on: Callable[[], None] = lambda: None
        """Called after each cut, commit and withdrawal."""
        self.hooks: CutHooks | None = None
        self._cut_wanted = False
        self.boundary = asyncio.Lock()
        """Held by whoever runs a cycle, or sees to it that none is run."""
        self.reshaping = Reshaping(self)
        self._clock = clock
        self._compression = Compression(group.config.link.compression, clock.monotonic)
        self._habit = Habit()
        self._log = log.bind(group=group.name)
        self._last_cut: float | None = None
        self._last_commit: float | None = None
        self._taking: asyncio.Task[None] | None = None
        self._destage: asyncio.Task[None] | None = None
        self._is_fresh = False
        """No session has worked on the cut yet: what it takes can be learnt from."""
        self.cut_at = 0.0
        self.keeper = keeper_for(group.config.rpo_seconds, None)
        self._has_agreed = False
        self._pause_seconds = RETRY_SECONDS
        """After the next cycle that is given up over a link that stands."""
        self._schedule = Schedule(group.config.schedule)
        group.when_failed = self._group_failed

    def under_way(self) -> list[asyncio.Task[Any]]:
        """Return what goes on whatever becomes of sessions, to be waited for."""
        going = [task for task in (self._taking, self._destage) if task is not None]
        return [*going, *self.reshaping.under_way]

    async def cut_settled(self) -> None:
        """Wait until a cut that a session, gone by now, has begun is made or not."""
        if self._taking is not None:
            await asyncio.wait([self._taking])

    async def destaged(self) -> None:
        """Wait until the destage of the last cut, if there was one, has ended."""
        if self._destage is not None:
            await asyncio.wait([self._destage])

    def want_cut(self) -> None:
        """Cut as soon as it may be, even if nothing has changed: for its FlashCopy.

        A cut under way, or a cycle not complete, is what was wanted.
        """
        is_taking = self._taking is not None and not self._taking.done()
        if not is_taking and self.group.cut is None:
            self._cut_wanted = True
            self.wake.set()

    def follow(self, config: PrimaryGroup) -> None:
        """Go on by another config, which differs in what a running sender follows."""
        before, self.group.config = self.group.config, config
        if config.link.compression != before.link.compression:
            self._compression = Compression(
                config.link.compression, self._clock.monotonic
            )
        if config.schedule != before.schedule:
            self._schedule = Schedule(config.schedule)
        if self.hooks is not None and config.hooks is not None:
            self.hooks.follow(config.hooks)
        self.keeper = keeper_for(config.rpo_seconds, self.keeper)
        if self._has_agreed and self.keeper is not None and self.keeper.as_of is None:
            self.keeper.as_of = self._as_of_from_record()
        self.wake.set()

    async def agree(self, session: SendingSession) -> None:
        """Agree with the remote on what it has, and have it know that."""
        async with self.boundary:
            await self.cut_settled()
            before = self.group.state.committed_cycle_id
            is_new_here = self.group.state.relation_id == NO_ID
            await self.reconcile(session.welcome)
            self._has_agreed = True
            if self.keeper is not None:
                is_same = self.group.state.committed_cycle_id == before
                if self.keeper.as_of is None and not is_new_here:
                    self.keeper.promise_stands()
                if self.keeper.as_of is None or not is_same:
                    self.keeper.as_of = self._as_of_from_record()
            await tell_sizes(self.group, session, only_changed=False)
            await self._tell_noted(session)

    def _as_of_from_record(self) -> float | None:
        """Return when the newest point was current, by this process's clock."""
        as_of_ns = self.group.state.current_as_of_ns
        if self.group.state.committed_number is None or as_of_ns is None:
            return None
        age = max(self._clock.now_ns() - as_of_ns, 0) / 1e9
        return self._clock.monotonic() - age

    async def reconcile(self, welcome: Welcome) -> None:
        await reconcile(
            self.group, welcome, self.alarms, self._complete, self.abandon_here
        )

    async def run(self, session: SendingSession) -> None:
        """Run one cycle after the other over a session, until it ends."""
        while self.group.failed is None:
            if session.ended or self.is_stopping:
                return  # a cancelling that an error of the same moment hid
            try:
                if self.group.cut is None:
                    await self._until_due()
                if not await self._turn(session):
                    await self._pause()
            except (CutStarvedError, CutImpossibleError) as error:
                self.alarms.set(error.alarm, str(error))
                self._log.warning("cut_failed", reason=str(error))
                self.tickets.fail_aboard(str(error))
                if isinstance(error, HookFailedError):
                    await self._pause()
                else:
                    await asyncio.sleep(RETRY_SECONDS)
            except StorageError as error:
                self.storage_failed(error)
        self.alarms.set("failed", str(self.group.failed))
        self.fail_all("the group has failed")
        await asyncio.Event().wait()  # the link stays, for the status of both sides

    def storage_failed(self, error: StorageError) -> None:
        if self.group.failed is None:
            self.group.failed = error
            self._group_failed(error)

    def _group_failed(self, error: StorageError) -> None:
        """Tell the operator at once, link or no link, cut due or not."""
        self._log.error("group_failed", reason=str(error))
        self.alarms.set("failed", str(error))
        self.wake.set()

    async def _tell_noted(self, session: SendingSession) -> None:
        """Have the remote know that session and newest point are recorded here."""
        cycle_id = self.group.state.committed_cycle_id or None
        await session.send(Noted(session.epoch, cycle_id))

    # -- one cycle ---------------------------------------------------------------------

    async def _turn(self, session: SendingSession) -> bool:
        """Run a cycle, or the rest of one; False if it was given up.

        No volume grows meanwhile: `boundary` is held from before the cut until its
        cycle is complete, abandoned, or left to the next session.
        """
        async with self.boundary:
            try:
                check_volumes(self.group, session)
                await tell_sizes(self.group, session, only_changed=True)
                if self.group.cut is not None:
                    await self.finish(session)
                else:
                    await self._next_cycle(session)
            except RelationEndedError as error:
                await self._abandon(session, str(error))
                return False
            return True

    async def _next_cycle(self, session: SendingSession) -> None:
        label = self.tickets.board()
        number = self.group.state.committed_number
        is_wanted, self._cut_wanted = self._cut_wanted, False
        # What applications hold in memory has not changed anything before a hook.
        is_wanted = is_wanted or (self.hooks is not None and bool(self.tickets))
        if number is not None and not is_wanted and not self.group.has_changed():
            await self._still_current(session, number)
            return
        self.group.part_bytes = self._next_part_bytes()
        self._taking = asyncio.create_task(self._take_cut(label), name="cut")
        self._taking.add_done_callback(retrieve)
        await asyncio.shield(self._taking)
        await self.finish(session)

    def _next_part_bytes(self) -> int | None:
        """Return how much of a joining volume's first copy the next cut takes."""
        if self.group.config.manual:
            return None  # its cuts are the operator's: no others are taken for it
        last = self.last_cycle
        if last is None or not self.group.is_copying:
            return PART_BYTES_FIRST
        return part_bytes(last.bytes_on_wire, last.drain_seconds)

    def copy_on(self) -> None:
        """Cut again at once while a volume is joining, where cuts disturb nobody."""
        disturbs = self.hooks is not None or self.group.config.manual
        if self.group.is_copying and not disturbs:
            self.want_cut()

    async def _take_cut(self, label: str | None) -> None:
        """Cut and begin to destage: a task of its own, so that a session lost in
        the middle of a hold can't tear the two apart."""
        cut = await self._make_cut(label)
        self._destage = asyncio.create_task(self.group.destage(), name="destage")
        self._destage.add_done_callback(retrieve)
        self._last_cut = self.cut_at = self._clock.monotonic()
        self._is_fresh = True
        self.alarms.clear("cut_starved", "flashcopy_unavailable")
        self.tickets.taken(cut)
        self.when_moved_on()

    async def _make_cut(self, label: str | None) -> Cut:
        """Cut, between the group's hooks; without them while hosts' writes are refused,
        as before a switchover: what applications hold can't be written any more."""
        group = self.group
        if self.hooks is None or any(volume.read_only for volume in group.volumes):
            return await group.make_cut(label)
        await group.prepare_cut()
        number = group.state.cycle_number + 1
        return await self.hooks.around(number, label, lambda: group.make_cut(label))

    async def _still_current(self, session: SendingSession, number: int) -> None:
        """Nothing changed: no point, but the newest one is current up to now."""
        now_ns = self._clock.now_ns()
        await session.advance_current(number, now_ns)
        self.alarms.clear("remote_out_of_space")
        state = self.group.state
        self.group.state = replace(state, current_as_of_ns=now_ns)
        self._last_cut = self._last_commit = self._clock.monotonic()
        if self.keeper is not None:
            self.keeper.as_of = self._last_cut
        cut = Cut(number, state.committed_cycle_id, now_ns, 0.0, None)
        self.tickets.taken(cut)
        self.tickets.safe(number)

    async def _until_due(self) -> None:
        while not self.tickets:
            if self.group.failed is not None:
                raise self.group.failed
            if self._cut_wanted and not self._may_not_cut:
                return
            wait = self._seconds_to_cut()
            if wait == 0:
                return
            self.wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self.wake.wait()

    @property
    def _may_not_cut(self) -> bool:
        state = self.group.state
        return state.suspended or state.handing is not None

    def _seconds_to_cut(self) -> float:
        """Return when to look again: 0 if a cut is due now."""
        group = self.group
        if self._may_not_cut:
            return LOOK_AGAIN_SECONDS_MAX
        now, changed, keeper = (
            self._clock.monotonic(),
            changed_bytes(group),
            self.keeper,
        )
        lead = self.hooks.lead_seconds if self.hooks is not None else 0.0
        wait = seconds_to_cut(
            group.config,
            Observed(
                now=now,
                last_cut=self._last_cut,
                last_commit=self._last_commit,
                changed_bytes=changed,
                schedule_due=self._schedule.seconds_until_due(self._clock.now_ns()),
                rpo_due=keeper.seconds_to_cut(now, changed) - lead if keeper else None,
            ),
        )
        if wait and group.config.changed_bytes is not None:
            return POLL_SECONDS
        if keeper is not None:
            return min(wait, look_seconds(keeper.target))
        return min(wait, LOOK_AGAIN_SECONDS_MAX)

    async def finish(self, session: SendingSession) -> None:
        """Drain the standing cut over this session, and have it committed."""
        group, cut = self.group, self.group.cut
        assert cut is not None
        await group.settle_cut()
        is_fresh, self._is_fresh = self._is_fresh, False
        wire_before = session.sent_bytes
        drain = self._new_drain(session, cut)
        await self._tell_whole(session, cut)
        self.drain = session.drain = drain
        self.drain_began = self._clock.monotonic()
        await drain.run()
        assert self._destage is not None
        with drain.waiting(Stage.READ):
            await asyncio.shield(self._destage)
        drained = self._clock.monotonic()
        relation_id = await self._committed(session, drain, cut)
        ended = self._clock.monotonic()
        self.last_cycle = LastCycle(
            cut.number,
            cut.hold_seconds,
            ended - self.cut_at,
            drain.tracks_sent,
            drain.tracks_compared,
            drain.tracks_differenced,
            drain.tracks_refused,
            cycle_bytes(group),
            session.sent_bytes - wire_before,
            self.drain_began - self.cut_at,
            ended - drained,
        )
        if self.keeper is not None and is_fresh and drain.is_typical:
            last = self.last_cycle
            self.keeper.cycle_ended(
                drain.data_bytes, last.bytes_on_wire, last.drain_seconds, drain.waits
            )
        await self._complete(relation_id)
        await self._tell_noted(session)

    def _new_drain(self, session: SendingSession, cut: Cut) -> CycleDrain:
        """Return the drain of a cut over a session, as both have agreed."""
        return CycleDrain(
            self.group,
            cut,
            session,
            self._compression,
            delta=self.group.config.link.delta and DELTA in session.features,
            habit=self._habit if REFERENCE in session.features else None,
            frame_bytes=session.frame_bytes,
            workers=max(WORKERS, session.link_count + 1),
        )

    async def _committed(
        self, session: SendingSession, drain: CycleDrain, cut: Cut
    ) -> bytes:
        """Wait for the remote's commit; return the relation that it has opened."""
        committed = asyncio.create_task(session.committed())
        try:
            answer = await drain.committed(committed)
        finally:
            committed.cancel()
        if answer.cycle_id != cut.cycle_id:
            raise ProtocolError("COMMITTED names another cycle")
        return answer.relation_id

    async def _tell_whole(self, session: SendingSession, cut: Cut) -> None:
        """Say which joining volumes the cycle completes, before it begins."""
        whole = session.lacking | set(self.group.whole_volumes())
        if whole and MEMBERS in session.features:
            told = Whole(session.epoch, cut.cycle_id, tuple(sorted(whole)))
            await session.send(told)

    async def _complete(self, relation_id: bytes) -> None:
        cut = self.group.cut
        assert cut is not None
        try:
            await self.group.complete_cycle(relation_id)
        finally:  # safe it is, whatever becomes of this session
            self.tickets.safe(cut.number)
        self.when_moved_on()
        self.drain = None
        self.carries_told = False
        self._last_commit = self._clock.monotonic()
        if self.keeper is not None:
            self.keeper.as_of = self.cut_at
        self._pause_seconds = RETRY_SECONDS
        self.alarms.clear(
            "cycle_abandoned",
            "internal_error",
            "remote_lost_points",
            "remote_out_of_space",
            "remote_restored",
        )
        self.totals.committed(cut.number, self.last_cycle)
        log_commit(self.group.name, cut, self.last_cycle, self._clock.now_ns())
        if (told := sent_trace(self.group.name, cut, self.last_cycle)) is not None:
            self.trace(told)
        if self.group.is_whole():
            # From now on a crash need not cost a full comparison: make it durable.
            self.tend_soon.set()
        if self.group.state.suspended:
            await self.withdraw()
        self.copy_on()

    # -- giving up ---------------------------------------------------------------------

    async def _abandon(self, session: SendingSession, why: str) -> None:
        cut = self.group.cut
        assert cut is not None
        await session.send(Abandon(session.epoch, cut.cycle_id))
        session.drain = self.drain = None
        await self.abandon_here(why)

    async def _pause(self) -> None:
        """Wait before the next cycle; whoever asks for a cut is not kept waiting."""
        pause = self._pause_seconds
        self._pause_seconds = min(2 * pause, RETRY_SECONDS_MAX)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                while not self.tickets and self.group.failed is None:
                    self.wake.clear()
                    await self.wake.wait()

    async def abandon_here(self, why: str) -> None:
        cut = self.group.cut
        assert cut is not None
        self._log.warning("cycle_abandoned", number=cut.number, reason=why)
        self.alarms.set("cycle_abandoned", f"cycle {cut.number}: {why}")
        self.trace_given_up(why)
        self.group.abandon_cycle()
        self.totals.abandoned()
        self.when_moved_on()
        self.tickets.fail_aboard(why)
        await self.group.discard_targets()

    def trace_given_up(self, why: str) -> None:
        """Tell of the standing cut's cycle, if there is one, as it is given up."""
        if (cut := self.group.cut) is None:
            return
        now = self._clock.monotonic()
        has_drained = self.drain_began >= self.cut_at
        drain_seconds = now - self.drain_began if has_drained else None
        told = given_up_trace(
            self.group.name, cut, why, now - self.cut_at, drain_seconds
        )
        self.trace(told)

    async def withdraw(self) -> None:
        self.group.withdraw()
        self.when_moved_on()
        await self.group.discard_targets()

    def fail_all(self, why: str) -> None:
        self.tickets.fail_aboard(why)
        self.tickets.fail_asked(why)
