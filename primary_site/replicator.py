"""One group for ever: connect, agree, run cycles, connect again.

A lost link leaves the cut and its FlashCopy standing for `resume_timeout`; then the
cycle is abandoned and its tracks join the next. Hosts notice none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random

import structlog

from common.errors import (
    ConnectionLostError,
    PeerRefusedError,
    ProtocolError,
    RefusedError,
    StorageError,
)
from common.ports import Clock
from common.replication.features import (
    DELTA,
    EXCHANGE,
    GROW,
    LINKS,
    MEMBERS,
    REFERENCE,
    TAKEOVER,
    VERIFY,
)
from common.replication.lineage import ToldFork
from common.replication.link import ForkedError
from common.replication.session_messages import (
    PROTOCOL_VERSION,
    Goodbye,
    GoodbyeReason,
    Hello,
    VolumeOffer,
)
from common.service.config_primary import PrimaryGroup
from primary_site.alarms import Alarms
from primary_site.background import first_of, retrieve
from primary_site.exchange import carry_told_changes
from primary_site.group import ConsistencyGroup
from primary_site.group_cycles import GroupCycles
from primary_site.growing import Growth
from primary_site.kept_up import kept_up
from primary_site.live_config import followed
from primary_site.not_yet import NotYet
from primary_site.paced import Pacing
from primary_site.rpo_watch import RpoWatch
from primary_site.session import SendingSession
from primary_site.session_links import Connect
from primary_site.session_opening import open_session
from primary_site.split_brain import SplitBrain
from primary_site.superseded import ALARM, superseded_text
from primary_site.switchover import Switchover
from primary_site.tickets import CutTicket, CutTickets
from primary_site.verifying import Verifying

RECONNECT_SECONDS_MIN = 0.2
RECONNECT_SECONDS_MAX = 5.0
REFUSED_SECONDS = 10.0
"""A refusal needs an operator: asking more often only fills two logs."""

NOT_YET_SECONDS = 2.0
"""Between two looks at a site that does not receive the group yet."""

TEND_SECONDS = 5.0
"""A region not written for this long cools: it bounds what a crash has compared."""

log = structlog.get_logger()


class Replicator:
    """Runs a group's cycles over sessions that come and go."""

    def __init__(
        self, group: ConsistencyGroup, site: str, connect: Connect, clock: Clock
    ) -> None:
        self.group = group
        self.session: SendingSession | None = None
        self.link_state = "connecting"
        self.met = asyncio.Event()
        """Set once a session has agreed, after the last `begin_anew`."""
        self.alarms = Alarms(clock)
        self.cycles = GroupCycles(group, CutTickets(), self.alarms, clock)
        self.verifying = Verifying(
            group, self.cycles, lambda: self.session, self.alarms, clock
        )
        self.cycles.when_moved_on = self.verifying.look_again
        self.switchover = Switchover(group, self.cycles, self.alarms, clock)
        self.split_brain = SplitBrain(self.switchover, self.alarms, clock)
        self.pacing = Pacing(group.config.link, clock)
        self.cycles.reshaping.before = self._end_verify
        self._site = site
        self._clock = clock
        self._connect = connect
        self._log = log.bind(group=group.name)
        self._give_up: asyncio.Task[None] | None = None
        self._not_yet = NotYet()
        self._watch = RpoWatch(
            self.cycles,
            self.alarms,
            lambda: self.session is not None,
            lambda: self.pacing.rate,
            clock,
        )

    async def _end_verify(self, why: str) -> None:
        await self.verifying.stop(f"{why}: begin anew")

    # -- what operators ask ------------------------------------------------------------

    async def request_cut(self, label: str | None) -> CutTicket:
        """Ask for a cut; it is taken once the cycle before it is complete."""
        self.check_role()
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
        self.cycles.wake.set()
        return self.cycles.tickets.ask(label)

    def check_role(self) -> None:
        """Raise `RefusedError` where this site is not the sender, or soon is not."""
        told = self.group.state.superseded
        if told is not None:
            text = superseded_text(self.group.name, told)
            raise RefusedError(f"group {self.group.name}: {text}")
        if self.switchover.is_handing:
            raise RefusedError(
                f"group {self.group.name} is being handed over to its remote"
            )

    def check_may_reshape(self) -> None:
        """Raise `RefusedError` where the group is to keep the volumes that it has.

        What the other site takes over has them, from the last cut on.
        """
        self.check_role()
        if self.switchover.is_under_way:
            raise RefusedError(
                f"group {self.group.name} is being handed over to its remote"
            )

    async def suspend(self) -> None:
        """No new cuts from now on, over restarts too; a drain under way finishes."""
        await self.group.update(suspended=True)
        self.cycles.tickets.fail_asked("the group was suspended")
        if self.group.cut is None:
            await self.cycles.withdraw()
        self.verifying.look_again()
        self.cycles.wake.set()

    async def resume(self) -> None:
        await self.group.update(suspended=False)
        self.cycles.wake.set()

    def _check_nobody_joins(self) -> None:
        """The remote would go on without a volume that no point has."""
        for name, saved in self.group.state.volumes.items():
            if saved.joining:
                raise RefusedError(
                    f"volume {name} is joining group {self.group.name}: wait until a "
                    "recovery point has it, or remove it; see farshore status"
                )

    async def hand_over(self) -> None:
        """Exchange roles with the remote, in good order; return once that is done.

        Raises `RefusedError`: then hosts go on here.
        """
        self.check_role()
        self._check_nobody_joins()
        if self.group.state.suspended:
            raise RefusedError(
                f"group {self.group.name} is suspended; "
                f"farshore resume {self.group.name} first"
            )
        session = self.session
        if session is None:
            raise RefusedError(
                f"group {self.group.name} has no link to its remote now "
                f"({self.link_state}); see farshore status"
            )
        await self.switchover.hand_over(session)
        # Another one than before, perhaps; if there is none now, the next one asks.
        if self.session is not None:
            await self.switchover.ask(self.session)
        await self.switchover.ended()

    async def grow(self, volume: str, size_bytes: int) -> Growth:
        """Make a volume larger while hosts use it; it is served so on return."""
        self.check_role()
        session = self.session
        if session is not None and GROW not in session.features:
            raise RefusedError(
                f"the remote of group {self.group.name} runs a release that can't grow "
                "volumes; upgrade it first"
            )
        return await self.cycles.reshaping.grow(volume, size_bytes)

    def follow(self, new: PrimaryGroup) -> None:
        """Go on by what a running sender takes over of another config."""
        self.cycles.follow(followed(self.group.config, new))
        self.pacing.apply(new.link)
        self._watch.look_again()

    def begin_anew(self) -> None:
        """End the session: the next one's HELLO says what there is now."""
        if self.session is not None:
            self.session.abort()
            self.session, self.link_state = None, "connecting"
        self.met.clear()

    # -- sessions ----------------------------------------------------------------------

    def stop(self) -> None:
        """Have `run` end; whoever runs it cancels it after this."""
        self.cycles.is_stopping = True

    async def run(self) -> None:
        """Replicate until stopped."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for work in (self._tend, self._save_acked, self._watch.run):
                    tasks.create_task(kept_up(work, self._unforeseen, self._clock))
                tasks.create_task(
                    kept_up(
                        self._connect_for_ever, self._replication_failed, self._clock
                    )
                )
        finally:
            await self.verifying.stop("the daemon was stopped")
            if self._give_up is not None:
                self._give_up.cancel()
            ending = self.cycles.under_way()
            if self._give_up is not None:
                ending.append(self._give_up)
            if ending:
                await asyncio.wait(ending)

    async def _unforeseen(self, error: Exception) -> None:
        """Tell of a bug of ours: what it has ended begins anew."""
        self._log.exception("internal_error", exc_info=error)
        self.alarms.set(
            "internal_error",
            f"an error that nobody foresaw ({error!r}): replication is tried again, "
            "hosts are served on; the log has its traceback, please report it",
        )

    async def _replication_failed(self, error: Exception) -> None:
        """Begin with another cycle: what this one had left may be what is wrong."""
        await self._unforeseen(error)
        self.link_state = "down"
        if self.group.cut is None or self.cycles.is_stopping:
            return
        try:
            await self.cycles.abandon_here(f"an internal error: {error!r}")
        except Exception as failed:  # noqa: BLE001 - then the next session goes on with it
            await self._unforeseen(failed)

    async def _tend(self) -> None:
        while True:  # ends with the daemon
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TEND_SECONDS):
                    await self.cycles.tend_soon.wait()
            self.cycles.tend_soon.clear()
            await self.group.upkeep.tend()

    async def _save_acked(self) -> None:
        while True:  # ends with the daemon
            await self.group.upkeep.acked_unsaved.wait()
            await self.group.upkeep.save_acked()

    async def _connect_for_ever(self) -> None:
        pause = RECONNECT_SECONDS_MIN
        while not self.cycles.is_stopping:
            if self.group.state.superseded is not None:
                await self._stand_superseded(self.group.state.superseded)
            try:
                session = await self._open()
                if self._give_up is not None:
                    self._give_up.cancel()
                pause, self._give_up = RECONNECT_SECONDS_MIN, None
                await self._serve(session)
            except PeerRefusedError as error:
                pause = await self._refused(error)
            except (ConnectionLostError, ProtocolError) as error:
                self.link_state = "down"
                self._log.warning("link_lost", reason=str(error))
            except StorageError as error:  # of the record: hosts are served on
                self.cycles.storage_failed(error)
            finally:
                self.session = None
                self.cycles.drain = None
                self.verifying.look_again()
            if self.cycles.is_stopping:
                return
            if self._give_up is None:
                self._give_up = asyncio.create_task(self._give_up_later())
                self._give_up.add_done_callback(retrieve)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(2 * pause, RECONNECT_SECONDS_MAX)

    async def _refused(self, error: PeerRefusedError) -> float:
        if isinstance(error, ForkedError):
            is_urgent = await self._learn(error)
            if self.group.state.superseded is not None:
                return 0.0  # nobody is asked again
            if not is_urgent:
                return self._asks_again_soon()
        elif self.switchover.is_handing:
            return await self._handing_refused(error)
        reason = GoodbyeReason(error.reason)
        if reason is GoodbyeReason.NOT_YET:
            self._told_not_yet(str(error))
            return NOT_YET_SECONDS
        self._log.warning("link_refused", reason=reason.name.lower(), text=str(error))
        if reason.is_permanent:
            self.link_state = "refused"
            self.alarms.set("refused", str(error))
            # As a cut asked for from now on is: no session takes it soon.
            self.cycles.tickets.fail_asked(str(error))
            return REFUSED_SECONDS
        self.link_state = "down"
        if reason is GoodbyeReason.OUT_OF_SPACE:
            self.alarms.set("remote_out_of_space", str(error))
        return RECONNECT_SECONDS_MAX

    def _told_not_yet(self, text: str) -> None:
        """The other site serves the group, or changes its role just now."""
        self.split_brain.not_yet()
        now = self._clock.monotonic()
        if self._not_yet.told(text, now):
            self._log.warning("link_refused", reason="not_yet", text=text)
        if self._not_yet.waits_for_operator(now):
            self.link_state = "refused"
            self.alarms.set("refused", text)
            self.cycles.tickets.fail_asked(text)
        else:
            self._asks_again_soon()

    def _asks_again_soon(self) -> float:
        """What the other site says is over by itself, as a rule."""
        self.link_state = "down"
        self.alarms.clear("refused")
        return NOT_YET_SECONDS

    async def _handing_refused(self, error: PeerRefusedError) -> float:
        """The remote has not taken over: it can't, or does so now."""
        if error.reason == GoodbyeReason.NOT_PERMITTED:
            await self.switchover.refused(error)
        return RECONNECT_SECONDS_MIN

    async def _learn(self, error: ForkedError) -> bool:
        """The remote serves the group: be superseded, if it went on from here.

        Return whether there is anything to tell an operator at once.
        """
        told, lineage = error.told, self.group.state.lineage
        if error.reason != GoodbyeReason.SUPERSEDED or told.fork.parent != lineage:
            return self.split_brain.told(told, self.group.state)
        try:
            await self.switchover.superseded(told)
        except StorageError as failed:  # said again at the next start
            self.cycles.storage_failed(failed)
        return True

    async def _stand_superseded(self, told: ToldFork) -> None:
        """Send nothing, until an operator has chosen this side."""
        text = superseded_text(self.group.name, told)
        self.switchover.reclaimed.clear()
        self.link_state = "refused"
        self.split_brain.over()
        self.alarms.clear("refused", "link_down")
        self.alarms.set(ALARM, text)
        self._log.warning("group_superseded", lineage=told.fork.lineage.hex())
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        await self.cycles.cut_settled()
        if self.group.cut is not None:
            await self.cycles.abandon_here("the remote has taken over")
        else:
            await self.cycles.withdraw()
        self.cycles.fail_all(text)
        await self.switchover.reclaimed.wait()
        self.alarms.clear(ALARM)
        self.link_state = "connecting"

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
            features=(
                *((DELTA, REFERENCE) if link.delta else ()),
                VERIFY,
                LINKS,
                GROW,
                TAKEOVER,
                EXCHANGE,
                MEMBERS,
            ),
        )
        addresses = [str(a) for _ in range(link.connections) for a in link.remotes]
        return await open_session(
            addresses, hello, link.peer, self._connect, self.pacing
        )

    async def _serve(self, session: SendingSession) -> None:
        """Run cycles over a session until it ends; raises why it did."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(session.receive())
                tasks.create_task(self._run_cycles(session))
        except BaseExceptionGroup as failed:
            raise first_of(failed) from failed
        finally:
            await session.close(Goodbye(GoodbyeReason.SHUTTING_DOWN, "closing"))

    async def _run_cycles(self, session: SendingSession) -> None:
        await self.cycles.agree(session)
        async with self.cycles.boundary:
            await carry_told_changes(self.cycles, session)
        session.verifier = self.verifying
        self.session = session
        self.met.set()
        self.verifying.look_again()
        self.link_state = "connected"
        self._not_yet.over()
        self.split_brain.over()
        self.alarms.clear("refused", "link_down")
        self._log.info("link_connected", epoch=session.epoch, links=len(session.links))
        await self.switchover.ask(session)
        await self.cycles.run(session)

    async def _give_up_later(self) -> None:
        """After `resume_timeout` without a link nothing is preserved any more."""
        timeout = self.group.config.resume_timeout_seconds
        await asyncio.sleep(timeout)
        self.alarms.set("link_down", f"no link to the remote for {timeout:g} s")
        await self.cycles.cut_settled()
        if self.group.cut is not None:
            await self.cycles.abandon_here(f"no link for {timeout:g} s")
        else:
            await self.cycles.withdraw()
        self.cycles.fail_all(f"no link for {timeout:g} s")
