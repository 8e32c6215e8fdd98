"""The cycle of one group, for ever: connect, wait, cut, drain, commit.

Every turn derives what to do from what is observed; a cycle outlives sessions. A
lost link leaves the cut and its FlashCopy standing for `resume_timeout`; then the
cycle is abandoned and its tracks join the next. Hosts notice none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from common.errors import (
    ConnectionLostError,
    PeerRefusedError,
    ProtocolError,
    RefusedError,
    StorageError,
)
from common.ports import Clock
from common.replication.lineage import CycleName, Verdict, judge, why_refused
from common.replication.messages import (
    PROTOCOL_VERSION,
    Abandon,
    Goodbye,
    GoodbyeReason,
    Hello,
    Noted,
    VolumeOffer,
    Welcome,
)
from primary_site.alarms import Alarms
from primary_site.background import first_of
from primary_site.cut_reader import RelationEndedError
from primary_site.drain import CycleDrain
from primary_site.group import (
    ConsistencyGroup,
    Cut,
    CutImpossibleError,
    CutStarvedError,
)
from primary_site.session import Connect, SendingSession, open_session
from primary_site.tickets import CutTicket, CutTickets
from primary_site.trigger import Observed, Schedule, seconds_to_cut
from primary_site.volume import PrimaryVolume

RECONNECT_SECONDS_MIN = 0.2
RECONNECT_SECONDS_MAX = 5.0
REFUSED_SECONDS = 10.0
"""A refusal needs an operator: asking more often only fills two logs."""

RETRY_SECONDS = 1.0
"""After a cut that could not be made, or a cycle given up here."""

RETRY_SECONDS_MAX = 30.0
"""Each cycle in a row that was given up doubles the pause, up to this."""

POLL_SECONDS = 0.2
"""How often the changed bytes are compared with the `changed` trigger."""

LOOK_AGAIN_SECONDS_MAX = 3600.0
TEND_SECONDS = 5.0
"""A region not written for this long cools: it bounds what a crash has compared."""

COMPRESSION_AUTO_LEVEL = 1

REMOTE_RESTORED = (
    "the remote's state is an older copy of itself: what it had acknowledged since is "
    "compared"
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LastCycle:
    number: int
    hold_seconds: float
    drain_seconds: float
    tracks: int
    tracks_compared: int
    bytes_changed: int
    bytes_on_wire: int


class Replicator:
    """Runs a group's cycles over sessions that come and go."""

    def __init__(
        self, group: ConsistencyGroup, site: str, connect: Connect, clock: Clock
    ) -> None:
        self.group = group
        self.session: SendingSession | None = None
        self.link_state = "connecting"
        self.alarms = Alarms(clock)
        self.last_cycle: LastCycle | None = None
        self.drain: CycleDrain | None = None
        self.drain_began = 0.0
        self._site = site
        self._connect = connect
        self._clock = clock
        self._log = log.bind(group=group.name)
        self._tickets = CutTickets()
        self._wake = asyncio.Event()
        self._tend_soon = asyncio.Event()
        self._last_cut: float | None = None
        self._last_commit: float | None = None
        self._give_up: asyncio.Task[None] | None = None
        self._taking: asyncio.Task[None] | None = None
        self._destage: asyncio.Task[None] | None = None
        self._cut_at = 0.0
        self._stopping = False
        self._pause_seconds = RETRY_SECONDS
        """After the next cycle that is given up over a link that stands."""
        self._schedule = Schedule(group.config.schedule)
        group.when_failed = self._group_failed

    # -- what operators ask ------------------------------------------------------------

    async def request_cut(self, label: str | None) -> CutTicket:
        """Ask for a cut; it is taken once the cycle before it is complete."""
        if self.group.failed is not None:
            raise RefusedError(
                f"group {self.group.name} has failed: {self.group.failed}; mend the "
                "device and restart the daemon"
            )
        if self.group.state.suspended:
            raise RefusedError(
                f"group {self.group.name} is suspended; "
                f"farshore resume {self.group.name} first"
            )
        if self.session is None:
            raise RefusedError(
                f"group {self.group.name} has no link to its remote now "
                f"({self.link_state}); see farshore status"
            )
        self._wake.set()
        return self._tickets.ask(label)

    async def suspend(self) -> None:
        """No new cuts from now on, over restarts too; a drain under way finishes."""
        await self.group.update(suspended=True)
        self._tickets.fail_asked("the group was suspended")
        if self.group.cut is None:
            await self._withdraw()
        self._wake.set()

    async def resume(self) -> None:
        await self.group.update(suspended=False)
        self._wake.set()

    # -- sessions ----------------------------------------------------------------------

    def stop(self) -> None:
        """Have `run` end; whoever runs it cancels it after this."""
        self._stopping = True

    async def run(self) -> None:
        """Replicate until stopped."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tend())
                tasks.create_task(self._connect_for_ever())
        finally:
            if self._give_up is not None:
                self._give_up.cancel()
            ending = [t for t in (self._give_up, self._taking, self._destage) if t]
            if ending:
                await asyncio.wait(ending)

    async def _tend(self) -> None:
        while True:  # ends with the daemon
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TEND_SECONDS):
                    await self._tend_soon.wait()
            self._tend_soon.clear()
            await self.group.tend()

    async def _connect_for_ever(self) -> None:
        pause = RECONNECT_SECONDS_MIN
        while not self._stopping:
            try:
                session = await self._open()
                if self._give_up is not None:
                    self._give_up.cancel()
                pause, self._give_up = RECONNECT_SECONDS_MIN, None
                await self._serve(session)
            except PeerRefusedError as error:
                pause = self._refused(error)
            except (ConnectionLostError, ProtocolError) as error:
                self.link_state = "down"
                self._log.warning("link_lost", reason=str(error))
            except StorageError as error:  # of the record: hosts are served on
                self._storage_failed(error)
            finally:
                self.session = None
                self.drain = None
            if self._stopping:
                return
            if self._give_up is None:
                self._give_up = asyncio.create_task(self._give_up_later())
                self._give_up.add_done_callback(_retrieve)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(2 * pause, RECONNECT_SECONDS_MAX)

    def _refused(self, error: PeerRefusedError) -> float:
        reason = GoodbyeReason(error.reason)
        self._log.warning("link_refused", reason=reason.name.lower(), text=str(error))
        if reason.is_permanent:
            self.link_state = "refused"
            self.alarms.set("refused", str(error))
            return REFUSED_SECONDS
        self.link_state = "down"
        if reason is GoodbyeReason.OUT_OF_SPACE:
            self.alarms.set("remote_out_of_space", str(error))
        return RECONNECT_SECONDS_MAX

    async def _open(self) -> SendingSession:
        group, link = self.group, self.group.config.link
        if self.link_state == "connected":
            self.link_state = "connecting"
        state = group.state
        hello = Hello(
            PROTOCOL_VERSION,
            PROTOCOL_VERSION,
            self._site,
            group.name,
            group.judged(),
            tuple(
                VolumeOffer(
                    volume.name,
                    state.volumes[volume.name].volume_id,
                    volume.geometry.size_bytes,
                    volume.geometry.track_bytes,
                )
                for volume in group.volumes
            ),
        )
        addresses = [str(a) for a in link.remotes for _ in range(link.connections)]
        return await open_session(addresses, hello, link.peer, self._connect)

    async def _serve(self, session: SendingSession) -> None:
        """Run cycles over a session until it ends; raises why it did."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(session.receive())
                tasks.create_task(self._cycles(session))
        except BaseExceptionGroup as failed:
            raise first_of(failed) from failed
        finally:
            await session.close(Goodbye(GoodbyeReason.SHUTTING_DOWN, "closing"))

    async def _cycles(self, session: SendingSession) -> None:
        if self._taking is not None:
            await asyncio.wait([self._taking])  # the last session's, under way still
        await self._reconcile(session.welcome)
        await self._tell_noted(session)
        self.session = session
        self.link_state = "connected"
        self.alarms.clear("refused", "link_down")
        self._log.info("link_connected", epoch=session.epoch, links=len(session.links))
        while self.group.failed is None:
            if session.ended or self._stopping:
                return  # a cancelling that an error of the same moment hid
            try:
                if self.group.cut is not None:
                    await self._finish(session)
                else:
                    await self._next_cycle(session)
            except RelationEndedError as error:
                await self._abandon(session, str(error))
            except (CutStarvedError, CutImpossibleError) as error:
                name = "cut_starved"
                if isinstance(error, CutImpossibleError):
                    name = "flashcopy_unavailable"
                self.alarms.set(name, str(error))
                self._log.warning("cut_failed", reason=str(error))
                self._tickets.fail_aboard(str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except StorageError as error:
                self._storage_failed(error)
        self.alarms.set("failed", str(self.group.failed))
        self._fail_all("the group has failed")
        await asyncio.Event().wait()  # the link stays, for the status of both sides

    def _storage_failed(self, error: StorageError) -> None:
        if self.group.failed is None:
            self.group.failed = error
            self._group_failed(error)

    def _group_failed(self, error: StorageError) -> None:
        """Tell the operator at once, link or no link, cut due or not."""
        self._log.error("group_failed", reason=str(error))
        self.alarms.set("failed", str(error))
        self._wake.set()

    async def _reconcile(self, welcome: Welcome) -> None:
        """Agree with the remote on the newest recovery point, before anything else."""
        group, receiver = self.group, welcome.receiver
        sender = group.judged()
        verdict = judge(sender, receiver)
        if verdict.is_refusal:
            raise PeerRefusedError(
                GoodbyeReason.LINEAGE,
                why_refused(verdict, group.name, sender, receiver),
            )
        point = receiver.committed
        cut = group.cut
        if cut is not None and point == CycleName(cut.number, cut.cycle_id):
            await self._complete(receiver.relation_id)  # only its answer was lost
        elif verdict is Verdict.NOTE_POINT:
            assert point is not None
            assert welcome.committed_cut_ns is not None
            as_of = welcome.current_as_of_ns or welcome.committed_cut_ns
            await group.note_committed(
                point.number, point.cycle_id, welcome.committed_cut_ns, as_of
            )
        elif verdict is Verdict.COMPARE_ALL:
            await self._compare_everything(welcome)
        elif verdict is Verdict.COMPARE_ACKED:
            self._log.warning("remote_restored", progress=receiver.progress_count)
            self.alarms.set("remote_restored", REMOTE_RESTORED)
            await group.doubt_acked()
        await group.adopt_relation(receiver.relation_id)
        await group.record_session(welcome.epoch, welcome.receipt)

    async def _compare_everything(self, welcome: Welcome) -> None:
        point = welcome.receiver.committed
        number = None if point is None else point.number
        self._log.warning("remote_lost_points", has=number)
        self.alarms.set(
            "remote_lost_points",
            f"the remote no longer has point {self.group.state.committed_number}; "
            "all tracks are compared",
        )
        await self.group.suspect_everything(
            number,
            b"" if point is None else point.cycle_id,
            welcome.committed_cut_ns,
            welcome.current_as_of_ns,
        )

    async def _tell_noted(self, session: SendingSession) -> None:
        """Have the remote know that session and newest point are recorded here."""
        cycle_id = self.group.state.committed_cycle_id or None
        await session.send(Noted(session.epoch, cycle_id))

    # -- one cycle ---------------------------------------------------------------------

    async def _next_cycle(self, session: SendingSession) -> None:
        await self._until_due()
        label = self._tickets.board()
        number = self.group.state.committed_number
        if number is not None and not self.group.has_changed():
            await self._still_current(session, number)
            return
        self._taking = asyncio.create_task(self._take_cut(label), name="cut")
        self._taking.add_done_callback(_retrieve)
        await asyncio.shield(self._taking)
        await self._finish(session)

    async def _take_cut(self, label: str | None) -> None:
        """Cut and begin to destage: a task of its own, so that a session lost in
        the middle of a hold can't tear the two apart."""
        cut = await self.group.make_cut(label)
        self._destage = asyncio.create_task(self.group.destage(), name="destage")
        self._destage.add_done_callback(_retrieve)
        self._last_cut = self._cut_at = self._clock.monotonic()
        self.alarms.clear("cut_starved", "flashcopy_unavailable")
        self._tickets.taken(cut)

    async def _still_current(self, session: SendingSession, number: int) -> None:
        """Nothing changed: no point, but the newest one is current up to now."""
        now_ns = self._clock.now_ns()
        await session.advance_current(number, now_ns)
        self.alarms.clear("remote_out_of_space")
        state = self.group.state
        self.group.state = replace(state, current_as_of_ns=now_ns)
        self._last_cut = self._last_commit = self._clock.monotonic()
        cut = Cut(number, state.committed_cycle_id, now_ns, 0.0, None)
        self._tickets.taken(cut)
        self._tickets.safe(number)

    async def _until_due(self) -> None:
        while not self._tickets:
            if self.group.failed is not None:
                raise self.group.failed
            wait = self._seconds_to_cut()
            if wait == 0:
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    def _seconds_to_cut(self) -> float:
        """Return when to look again: 0 if a cut is due now."""
        group = self.group
        if group.state.suspended:
            return LOOK_AGAIN_SECONDS_MAX
        last = self.last_cycle
        wait = seconds_to_cut(
            group.config,
            Observed(
                now=self._clock.monotonic(),
                last_cut=self._last_cut,
                last_commit=self._last_commit,
                last_drain_seconds=last.drain_seconds if last else 0.0,
                changed_bytes=self.changed_bytes(),
                schedule_due=self._schedule.seconds_until_due(self._clock.now_ns()),
            ),
        )
        if wait and group.config.changed_bytes is not None:
            return POLL_SECONDS
        return min(wait, LOOK_AGAIN_SECONDS_MAX)

    async def _finish(self, session: SendingSession) -> None:
        """Drain the standing cut over this session, and have it committed."""
        group, cut = self.group, self.group.cut
        assert cut is not None
        await group.settle_cut()
        wire_before = session.sent_bytes
        drain = CycleDrain(group, cut, session, self._level())
        self.drain = session.drain = drain
        self.drain_began = self._clock.monotonic()
        await drain.run()
        assert self._destage is not None
        await asyncio.shield(self._destage)
        committed = asyncio.create_task(session.committed())
        try:
            await drain.end()
            answer = await committed
        finally:
            committed.cancel()
        if answer.cycle_id != cut.cycle_id:
            raise ProtocolError("COMMITTED names another cycle")
        seconds = self._clock.monotonic() - self._cut_at
        self.last_cycle = LastCycle(
            cut.number,
            cut.hold_seconds,
            seconds,
            drain.tracks_sent,
            drain.tracks_compared,
            self._cycle_bytes(),
            session.sent_bytes - wire_before,
        )
        await self._complete(answer.relation_id)
        await self._tell_noted(session)

    async def _complete(self, relation_id: bytes) -> None:
        cut = self.group.cut
        assert cut is not None
        try:
            await self.group.complete_cycle(relation_id)
        finally:  # safe it is, whatever becomes of this session
            self._tickets.safe(cut.number)
        self.drain = None
        self._last_commit = self._clock.monotonic()
        self._pause_seconds = RETRY_SECONDS
        self.alarms.clear(
            "cycle_abandoned",
            "remote_lost_points",
            "remote_out_of_space",
            "remote_restored",
        )
        self._log_commit(cut)
        if self.group.is_whole():
            # From now on a crash need not cost a full comparison: make it durable.
            self._tend_soon.set()
        if self.group.state.suspended:
            await self._withdraw()

    def _log_commit(self, cut: Cut) -> None:
        last = self.last_cycle
        if last is None or last.number != cut.number:
            self._log.info("cycle_committed", number=cut.number)
            return
        age_ns = self._clock.now_ns() - cut.cut_ns
        self._log.info(
            "cycle_committed",
            number=cut.number,
            hold_seconds=round(last.hold_seconds, 6),
            drain_seconds=round(last.drain_seconds, 3),
            tracks=last.tracks,
            tracks_compared=last.tracks_compared,
            bytes_changed=last.bytes_changed,
            bytes_on_wire=last.bytes_on_wire,
            age_seconds=round(age_ns / 1e9, 3),
        )

    def _level(self) -> int | None:
        compression = self.group.config.link.compression
        if compression == "off":
            return None
        if isinstance(compression, int):
            return compression
        return COMPRESSION_AUTO_LEVEL

    # -- giving up ---------------------------------------------------------------------

    async def _abandon(self, session: SendingSession, why: str) -> None:
        cut = self.group.cut
        assert cut is not None
        await session.send(Abandon(session.epoch, cut.cycle_id))
        session.drain = self.drain = None
        await self._abandon_here(why)
        await self._pause()

    async def _pause(self) -> None:
        """Wait before the next cycle; whoever asks for a cut is not kept waiting."""
        pause = self._pause_seconds
        self._pause_seconds = min(2 * pause, RETRY_SECONDS_MAX)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                while not self._tickets and self.group.failed is None:
                    self._wake.clear()
                    await self._wake.wait()

    async def _abandon_here(self, why: str) -> None:
        cut = self.group.cut
        assert cut is not None
        self._log.warning("cycle_abandoned", number=cut.number, reason=why)
        self.alarms.set("cycle_abandoned", f"cycle {cut.number}: {why}")
        self.group.abandon_cycle()
        self._tickets.fail_aboard(why)
        await self.group.discard_targets()

    async def _give_up_later(self) -> None:
        """After `resume_timeout` without a link nothing is preserved any more."""
        timeout = self.group.config.resume_timeout_seconds
        await asyncio.sleep(timeout)
        self.alarms.set("link_down", f"no link to the remote for {timeout:g} s")
        if self.group.cut is not None:
            await self._abandon_here(f"no link for {timeout:g} s")
        else:
            await self._withdraw()
        self._fail_all(f"no link for {timeout:g} s")

    async def _withdraw(self) -> None:
        self.group.withdraw()
        await self.group.discard_targets()

    def _fail_all(self, why: str) -> None:
        self._tickets.fail_aboard(why)
        self._tickets.fail_asked(why)

    # -- figures -----------------------------------------------------------------------

    def changed_bytes(self) -> int:
        return self._bytes(lambda v: v.changes.changed_tracks())

    def out_of_sync_bytes(self) -> int:
        return self._bytes(lambda v: v.changes.out_of_sync_tracks())

    def _cycle_bytes(self) -> int:
        return self._bytes(lambda v: v.changes.pprc.count if v.changes.pprc else 0)

    def _bytes(self, tracks: Callable[[PrimaryVolume], int]) -> int:
        return sum(
            min(tracks(v) * v.geometry.track_bytes, v.size_bytes)
            for v in self.group.volumes
        )


def _retrieve(task: asyncio.Task[None]) -> None:
    """Look at the outcome, so that a failed destage nobody awaits is not lost twice."""
    if not task.cancelled():
        task.exception()
